"""One thing that goes wrong, and what a worker must do then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SERVES_ON = "serves on; 0 when told to stop"
"""What a worker must do of most things that are not its own fault."""


class Broken(Exception):
    """The worker did not do what it must; one line says what it did."""


@dataclass(frozen=True, slots=True)
class Model:
    """What the workers serve.

    Attributes:
        artifact: An artifact.
        checkpoint: Something that can be exported.
    """

    artifact: Path
    checkpoint: Path


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that goes wrong.

    Attributes:
        fault: What.
        stage: When.
        expected: What the worker must do then, in the words of the table.
        run: Makes it happen. Raises :class:`Broken` if the worker does something else.
    """

    fault: str
    stage: str
    expected: str
    run: Callable[[Model], None]
