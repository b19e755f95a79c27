"""What the gate says, and what it is worth, as tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from rbee_bench import layout
from rbee_bench.gate import Figure, Gate, Verdict
from rbee_bench.proof import Miss, Proof


def gate_report(result: Gate) -> RenderableType:
    """Lay out what :func:`~rbee_bench.gate.measure_gate` found."""
    how = f"{result.rounds} rounds by turns" if result.rounds else "counted"
    table = layout.table(
        f"This tree beside {result.base}, {how}",
        ("", result.base, "this tree", "change", "surely within", "at most", ""),
    )
    for figure in result.figures:
        low, high = figure.interval
        table.add_row(
            figure.name,
            _figure(figure, figure.base),
            _figure(figure, figure.this),
            f"{figure.change:+.1%}",
            f"{low:+.1%} to {high:+.1%}" if figure.bounded else "too few rounds",
            f"{figure.limit:+.0%}",
            figure.verdict.value,
        )
    notes = [Text(result.verdict.value)]
    if result.verdict is Verdict.UNDECIDED:
        doubts = f"other programs had {result.bystanders:.0%} of the processor"
        notes.append(Text(f"the machine is too noisy to say: {doubts}; run it when it is quiet"))
    return Group(table, *notes)


def proof_report(result: Proof) -> RenderableType:
    """Lay out what :func:`~rbee_bench.proof.prove_gate` found."""
    slowed = f"{result.slowdown:.0%} slower"
    table = layout.table(
        f"The gate on {result.base} itself, {len(result.rounds)} times",
        ("", "rounds", "unchanged", slowed),
    )
    for number, verdicts in enumerate(zip(result.unchanged, result.slowed, strict=True)):
        unchanged, slower = verdicts
        table.add_row(f"{number + 1}", f"{result.rounds[number]}", unchanged.value, slower.value)
    total = len(result.rounds)
    passed = result.unchanged.count(Verdict.PASSED)
    caught = result.slowed.count(Verdict.FAILED)
    lines = [f"unchanged passes {passed} of {total}; {slowed} is caught {caught} of {total}"]
    undecided = (result.unchanged + result.slowed).count(Verdict.UNDECIDED)
    if undecided:
        others = f"other programs had {result.bystanders:.0%} of the processor"
        lines.append(f"too noisy to say {undecided} times: {others}; run it when it is quiet")
    lines.extend(map(_miss, result.misses))
    return Group(table, *map(Text, lines))


def _miss(miss: Miss) -> str:
    return (
        f"gate {miss.gate}, {miss.tree}: {miss.figure} {miss.verdict.value}, surely within "
        f"{miss.low:+.1%} to {miss.high:+.1%}, at most {miss.limit:+.0%}"
    )


def _figure(figure: Figure, costs: Sequence[float]) -> str:
    cost = statistics.median(costs)
    match figure.unit:
        case "bytes":
            return layout.megabytes(round(cost))
        case "seconds":
            return f"{cost:.2f} s"
        case "seconds a token":
            return f"{1 / cost:.1f} tokens/s"
        case "instructions":
            return f"{cost:.0f} instructions a token"
