"""How large JSON schemas may be that are compiled together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rbee_runtime.constraint.repetition import MOST_REPETITIONS

MOST_CHARACTERS: Final = 1 << 16
"""Of the text of a schema."""

MOST_PARTS: Final = 1_000
"""Schemas in one."""

MOST_REMAINDERS: Final = 10_000
"""Of all ``multipleOf`` together, in units of the last decimal place of each: ten thousand take a
tenth of a second to compile.
"""


@dataclass(frozen=True, slots=True)
class Extent:
    """What of a schema adds up with that of others that are compiled together.

    Attributes:
        characters: Of its text.
        parts: Schemas in it.
        repetitions: Of its patterns, written out.
        remainders: Of all its ``multipleOf``.
    """

    characters: int = 0
    parts: int = 0
    repetitions: int = 0
    remainders: int = 0

    def __add__(self, other: Extent) -> Extent:
        return Extent(
            self.characters + other.characters,
            self.parts + other.parts,
            self.repetitions + other.repetitions,
            self.remainders + other.remainders,
        )

    def exceeds(self, schemas: int) -> bool:
        """Return whether it is more than so many schemas may have."""
        return (
            self.characters > schemas * MOST_CHARACTERS
            or self.parts > schemas * MOST_PARTS
            or self.repetitions > schemas * MOST_REPETITIONS
            or self.remainders > schemas * MOST_REMAINDERS
        )
