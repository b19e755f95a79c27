"""Numbers out of a stranger's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rbee_export.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Numbers:
    """Reads numbers out of settings; ``null`` counts as missing.

    Attributes:
        source: What to name in an error: a file, with the part of it that is meant.
        settings: The values by key.
        prefix: What keys begin with in the file.
    """

    source: str
    settings: Mapping[str, Any]
    prefix: str = ""

    def real(self, key: str, default: float | None = None) -> float:
        """Return a number.

        Raises:
            CheckpointError: It is missing and has no default, is no number, or is out of range.
        """
        value = self.settings.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(key, "is missing or not a number")
        if not abs(value) < 2**53:  # beyond, and with infinity and NaN, nothing is exact
            raise self._error(key, "is out of range")
        return float(value)

    def maybe(self, key: str) -> float | None:
        """Return a number, ``None`` where it is missing or zero."""
        return self.real(key, 0.0) or None

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a whole number."""
        value = self.real(key, default)
        if not value.is_integer():
            raise self._error(key, "is not a whole number")
        return int(value)

    def above(self, bound: float, key: str, default: float | None = None) -> float:
        """Return a number above another."""
        value = self.real(key, default)
        if not value > bound:
            raise self._error(key, f"is {value:g}; it must be above {bound:g}")
        return value

    def factor(self, key: str, default: float | None = None) -> float:
        """Return a number above zero that may be divided by: its inverse is no infinity either."""
        return self.above(1e-6, key, default)

    def count(self, key: str, most: int, default: int | None = None) -> int:
        """Return a number of things, of which there is at least one."""
        count = self.whole(key, default)
        if not 1 <= count <= most:
            raise self._error(key, f"is {count}; 1 to {most} are possible")
        return count

    def positions(self, key: str, default: int | None = None) -> int:
        """Return a number of positions, small enough to make a table of."""
        return self.count(key, 1 << 21, default)

    def layers(self, key: str) -> int:
        """Return a number of layers, small enough to make a list of."""
        return self.count(key, 1024)

    def list_of(self, key: str, length: int) -> tuple[float, ...] | None:
        """Return a list of ``length`` numbers, ``None`` where it is missing."""
        values = self.settings.get(key)
        if values is None:
            return None
        if not isinstance(values, list) or len(values) != length:
            raise self._error(key, f"is not a list of {length} numbers")
        return tuple(Numbers(self.source, {key: value}, self.prefix).real(key) for value in values)

    def _error(self, key: str, fault: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: {self.prefix}{key} {fault}")
