"""What the figures have to reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpu_check.outcome import Outcome, Status
from gpu_check.rates import rates

MODEL = "8B"


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and what it must be at least.

    Attributes:
        what: The figure.
        least: What it must be.
        found: What it is; ``None`` where it was not measured.
    """

    what: str
    least: float
    found: float | None

    @property
    def met(self) -> bool | None:
        """Whether it is reached; ``None`` where nobody knows."""
        return None if self.found is None else self.found >= self.least

    def row(self) -> dict[str, Any]:
        """Return it as a line of a table."""
        met = {None: "not measured", True: "reached", False: "**not reached**"}[self.met]
        return {"": self.what, "at least": self.least, "found": self.found, "so": met}


def targets(outcomes: Sequence[Outcome]) -> tuple[Target, ...]:
    """Return every target beside what was found."""
    table = rates(outcomes)

    def rate(by: str, batch: int, column: str = "tokens/s") -> float | None:
        return next(
            (
                row[column]
                for row in table
                if (row["model"], row["by"], row["what"]) == (MODEL, by, "decode")
                and (row["precision"], row["batch"]) == ("fp16", batch)
            ),
            None,
        )

    def ratio(batch: int) -> float | None:
        ours, eager = rate("ours", batch), rate("eager torch", 1)
        return None if ours is None or eager is None else ours / eager

    parity = [one for one in outcomes if one.name.startswith(("parity", "captured"))]
    ran = [one.status is Status.PASSED for one in parity if one.status is not Status.SKIPPED]
    return (
        Target("parity, share of checks that pass", 1.0, sum(ran) / len(ran) if ran else None),
        Target(f"{MODEL} fp16, batch 1, of the roofline", 0.75, rate("ours", 1, "of the roofline")),
        Target(f"{MODEL} fp16, batch 1, beside eager torch at 1", 3.0, ratio(1)),
        Target(f"{MODEL} fp16, batch 64, beside eager torch at 1", 20.0, ratio(64)),
    )
