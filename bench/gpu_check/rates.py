"""What was timed, beside what the GPU gives at best and beside torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gpu_check.outcome import Outcome, Row

LIMITS = "limits"


def rates(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return every rate that was measured, one a row.

    Its share of the roofline is of ``rows / max((weights + rows * position * context) / bandwidth,
    rows * operations / arithmetic)`` where it decodes, and where it reads prompts of
    ``tokens / max(weights / bandwidth, tokens * operations / arithmetic)``, with what one pass over
    the weights takes for each of its steps. Nothing is said of torch's: its model is the same.

    Returns:
        Rows of ``model``, ``precision``, ``by``, ``what``, ``batch``, ``tokens/s``, ``of the
        roofline`` and ``eager torch of this batch is``.
    """
    rows = [row for one in outcomes for row in one.rows if "rate" in row]
    limits = _limits(outcomes)
    table = []
    for row in rows:
        eager = _eager(rows, row)
        table.append(
            {
                "model": row["model"],
                "precision": row["precision"],
                "by": row["by"],
                "what": row["what"],
                "batch": row["batch"],
                "tokens/s": row["rate"],
                "of the roofline": _share(row, *limits),
                "beside eager": None if eager is None else row["rate"] / eager["rate"],
            }
        )
    return table


def _limits(outcomes: Iterable[Outcome]) -> tuple[float | None, float | None]:
    """Return the best bytes and operations a second that were measured."""
    rows = [row for one in outcomes if one.name.startswith(LIMITS) for row in one.rows]
    reading = [row["a second"] for row in rows if row.get("unit") == "bytes"]
    arithmetic = [row["a second"] for row in rows if row.get("unit") == "operations"]
    return max(reading, default=None), max(arithmetic, default=None)


def _share(row: Row, bandwidth: float | None, arithmetic: float | None) -> float | None:
    if bandwidth is None or "weights" not in row:
        return None
    # A step of so many rows or tokens: how long it takes at least.
    size = row["step"]
    moved = row["weights"] + size * row["cache"]
    computing = size * row["operations"] / arithmetic if arithmetic else 0.0
    return float(row["rate"] * max(moved / bandwidth, computing) / size)


def _eager(rows: Iterable[Row], of: Row) -> Row | None:
    alike = ("model", "what", "batch")
    return next(
        (
            row
            for row in rows
            if row["by"] == "eager torch" and all(row[key] == of[key] for key in alike)
        ),
        None,
    )
