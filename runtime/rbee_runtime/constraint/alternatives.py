"""How many things a JSON schema lets stand in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

MOST_ALTERNATIVES: Final = 64
"""Of one place. What follows a completion looks at all of them for every token, and the time it
takes grows with their square: five hundred take more than a second.
"""


class Alternatives:
    """Counts the alternatives of the places of one schema, each part of it once.

    Args:
        root: The whole schema, which references lead into.
    """

    def __init__(self, root: object) -> None:
        self._root = root
        self._known: dict[int, int] = {}

    def of(self, schema: object) -> int:
        """Return how many alternatives a schema has in its place, those behind references too."""
        if not isinstance(schema, Mapping):
            return 1
        known = self._known.get(id(schema))
        if known is None:
            self._known[id(schema)] = 1  # for a reference that leads back here
            known = sum(self.of(inner) for inner in self._in_its_place(schema))
            types = schema.get("type")
            known += len(types) if isinstance(types, list) else 0
            self._known[id(schema)] = known = max(1, known)
        return known

    def _in_its_place(self, schema: Mapping[str, Any]) -> Iterator[object]:
        """Yield the schemas that stand where this one does."""
        for keyword in ("allOf", "anyOf", "oneOf"):
            branches = schema.get(keyword)
            if isinstance(branches, list):
                yield from branches
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield self._target(reference)

    def _target(self, reference: str) -> object:
        """Return what a reference leads to; ``None`` if nothing, which is the compiler's to say."""
        found: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                return None
        return found
