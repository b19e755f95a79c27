"""What came of a check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Row = Mapping[str, Any]
"""One finding: a line of a table."""


class Status(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    MISSING = "missing"
    """The machine lacks what every check needs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A check's end, and what it found until then.

    Attributes:
        name: The check's.
        status: How it ended.
        why: In one line, unless it passed.
        seconds: How long it took.
        rows: What it found, in the order in which it did.
    """

    name: str
    status: Status
    why: str = ""
    seconds: float = 0.0
    rows: tuple[Row, ...] = ()
