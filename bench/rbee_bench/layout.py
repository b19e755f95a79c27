"""Pieces of which reports are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from rich.table import Table
from rich.text import Text

from rbee_bench.agreement import Agreement
from rbee_bench.bystanders import BUSY
from rbee_bench.stats import CLOSE, NOISY, doubtful, paired_ratio, ratio_interval

_NAMED = 3
"""Figures that are named for their spread; there can be dozens."""


class Rated(Protocol):
    """An engine with a rate for each round, the rounds taken by turns with the others'."""

    @property
    def label(self) -> str: ...  # noqa: D102

    @property
    def ours(self) -> bool: ...  # noqa: D102

    @property
    def rates(self) -> tuple[float, ...]: ...  # noqa: D102


def table(title: str, columns: Sequence[str]) -> Table:
    """Return a table without rows, its first column of names and the others of figures."""
    whole = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        whole.add_column(column, justify="left" if number == 0 else "right")
    return whole


def ratios(row: Rated, ours: Sequence[Rated]) -> list[str]:
    """Return how many times as fast each of ours is, nothing beside itself."""
    return ["" if one is row else times(paired_ratio(one.rates, row.rates)) for one in ours]


def times(ratio: float) -> str:
    """Return a ratio."""
    return f"{ratio:.2f} x"


def share(part: float | None) -> str:
    """Return a part of a whole in per cent; nothing if it is not known."""
    return "" if part is None else f"{part:.0%}"


def milliseconds(seconds: float) -> str:
    """Return a short time."""
    return f"{seconds * 1000:.1f} ms"


def megabytes(count: int) -> str:
    """Return a size."""
    return f"{count / 1e6:.0f} MB"


def gigabytes(rate: float) -> str:
    """Return bytes a second."""
    return f"{rate / 1e9:.1f} GB/s"


def operations(rate: float) -> str:
    """Return operations a second."""
    return f"{rate / 1e9:.0f} GOP/s"


def skipped(why: Mapping[str, str]) -> list[Text]:
    """Return a line for each engine that did not run."""
    return [Text(f"{label}: skipped, {reason}") for label, reason in why.items()]


def versions(each: Iterable[str]) -> Text:
    """Return the versions in a line, each once."""
    return Text("; ".join(dict.fromkeys(each)))


def agreement(found: Agreement) -> list[Text]:
    """Return a line that names the engines whose answers are wrong; none if all are right."""
    return [
        Text(
            f"{label}: wrong, however fast: after {found.shares[label]:.0%} of {found.prompts} "
            f"prompts it goes on as {found.reference} does",
            style="red",
        )
        for label in found.wrong
    ]


def noise(
    spreads: Mapping[str, float], bystanders: float, contests: Sequence[Sequence[Rated]] = ()
) -> list[Text]:
    """Return what speaks against the figures; nothing if nothing does.

    Args:
        spreads: By what was measured, the spread of its rounds.
        bystanders: Share of the processor that other programs had.
        contests: Engines that were measured in the same rounds: of each of ours and each other one
            the ratio is to be known.
    """
    wide = sorted((value, label) for label, value in spreads.items() if value > NOISY)[::-1]
    doubts = [f"{label} {value:.0%} spread, over {NOISY:.0%}" for value, label in wide[:_NAMED]]
    if len(wide) > _NAMED:
        doubts.append(f"{len(wide) - _NAMED} more of {len(spreads)} spread over {NOISY:.0%}")
    if bystanders > BUSY:
        doubts.append(f"other programs had {bystanders:.0%} of the processor, over {BUSY:.0%}")
    doubts += _ratio_doubts(contests)
    if not doubts:
        return []
    text = f"too noisy to say: {'; '.join(doubts)}; run it again when it is quiet"
    return [Text(text, style="yellow")]


def _ratio_doubts(contests: Sequence[Sequence[Rated]]) -> list[str]:
    pairs = [
        (one, other)
        for rows in contests
        for one in rows
        for other in rows
        if one.ours and not other.ours
    ]
    unsure = [(one, other) for one, other in pairs if doubtful(one.rates, other.rates)]
    if not unsure:
        return []
    if any(len(one.rates) < 4 for one, _ in unsure):
        return [f"fewer than 4 rounds: another run may find ratios {CLOSE:.0%} and more away"]

    def width(pair: tuple[Rated, Rated]) -> float:
        low, high = ratio_interval(pair[0].rates, pair[1].rates, 0.8)
        return high / low

    one, other = max(unsure, key=width)
    low, high = ratio_interval(one.rates, other.rates, 0.8)
    worst = f"{one.label} beside {other.label}, between {low:.2f} and {high:.2f} x"
    return [
        f"another run may find {len(unsure)} of {len(pairs)} ratios more than {CLOSE:.0%} away, "
        f"first of all {worst}"
    ]
