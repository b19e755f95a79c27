"""Does the gate tell a tree that is its base from one that is slower?"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rbee_bench.gate import LEAST, MOST, Gate, Verdict, judge
from rbee_bench.subject import Progress
from rbee_bench.trees import opened

Tree = Literal["unchanged", "slowed"]


@dataclass(frozen=True, slots=True)
class Miss:
    """A figure for which a gate did not say what it must.

    Attributes:
        gate: Which gate, from 1.
        tree: What it was to judge.
        figure: The figure's name.
        verdict: What it said of the figure.
        low: Where the figure's change surely is, as a part of the base's cost: from here
        high: to here.
        limit: How large a change passes.
    """

    gate: int
    tree: Tree
    figure: str
    verdict: Verdict
    low: float
    high: float
    limit: float


@dataclass(frozen=True, slots=True)
class Proof:
    """Gates of an unchanged tree, each judged twice.

    Attributes:
        base: The revision as it was asked for.
        slowdown: The part of its times that was added for the second judgement.
        unchanged: Verdicts on what was measured.
        slowed: Verdicts on the same with the slowdown added.
        rounds: Rounds that each took.
        misses: The figures that made a verdict another than it must be.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    base: str
    slowdown: float
    unchanged: tuple[Verdict, ...]
    slowed: tuple[Verdict, ...]
    rounds: tuple[int, ...]
    misses: tuple[Miss, ...]
    bystanders: float

    @property
    def holds(self) -> bool:
        """Whether every gate let the one through and kept the other out."""
        return {*self.unchanged} == {Verdict.PASSED} and {*self.slowed} == {Verdict.FAILED}


def prove_gate(
    base: str,
    model: Path | None,
    threads: int,
    progress: Progress,
    *,
    slowdown: float,
    times: int,
    least: int = LEAST,
    most: int = MOST,
) -> Proof:
    """Hold the gate ``times`` times on a tree that is its base, as it is and made out to be slower.

    What is added to this tree's times is in the same rounds: the two verdicts differ by it alone.

    Raises:
        GateFault: As :func:`~rbee_bench.gate.measure_gate`, like PeerFault and StartFault.
    """
    gates = []
    with opened(base, model, threads, progress) as trees:
        for number in range(times):

            def numbered(what: str, done: int, total: int, number: int = number) -> None:
                progress(f"gate {number + 1} of {times}, {what}", done, total)

            gates.append(
                judge(base, trees, (0.0, slowdown), least=least, most=most, progress=numbered)
            )
    return Proof(
        base=base,
        slowdown=slowdown,
        unchanged=tuple(unchanged.verdict for unchanged, _ in gates),
        slowed=tuple(slowed.verdict for _, slowed in gates),
        rounds=tuple(unchanged.rounds for unchanged, _ in gates),
        misses=tuple(_misses(gates)),
        bystanders=statistics.fmean(unchanged.bystanders for unchanged, _ in gates),
    )


def _misses(gates: Sequence[Sequence[Gate]]) -> Iterator[Miss]:
    for number, (unchanged, slowed) in enumerate(gates, start=1):
        yield from _missed(number, "unchanged", unchanged, Verdict.PASSED)
        yield from _missed(number, "slowed", slowed, Verdict.FAILED)


def _missed(number: int, tree: Tree, gate: Gate, right: Verdict) -> Iterator[Miss]:
    if gate.verdict is right:
        return
    for figure in gate.figures:
        if figure.verdict is gate.verdict:  # it, not those beside it, made the gate say so
            low, high = figure.interval
            yield Miss(number, tree, figure.name, figure.verdict, low, high, figure.limit)
