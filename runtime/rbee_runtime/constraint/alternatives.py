"""How many things a JSON schema lets stand in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

MOST_ALTERNATIVES: Final = 64
"""Of one place. What follows a completion looks at all of them for every token, and the time it
takes grows with their square: five hundred take more than a second.
"""

MOST_OPTIONAL: Final = 100
"""Properties that may be left out one after the other. Each of them may come next: the library
gives up on some 125.
"""


class InPlace:
    """Counts what there is in the places of one schema, each part of it once.

    Args:
        root: The whole schema, which references lead into.
        own: Returns how much a schema itself adds to its place.
        least: What there is in any.
    """

    def __init__(
        self, root: object, own: Callable[[Mapping[str, Any]], int], *, least: int
    ) -> None:
        self._root = root
        self._own = own
        self._least = least
        self._known: dict[int, int] = {}

    def of(self, schema: object) -> int:
        """Return how much there is in a schema's place, what is behind references too."""
        if not isinstance(schema, Mapping):
            return self._least
        known = self._known.get(id(schema))
        if known is None:
            self._known[id(schema)] = self._least  # for a reference that leads back here
            known = self._own(schema) + sum(self.of(inner) for inner in self._in_its_place(schema))
            self._known[id(schema)] = known = max(self._least, known)
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


def alternatives(root: object) -> InPlace:
    """Return what counts the alternatives that a schema lets stand in one place."""

    def types(schema: Mapping[str, Any]) -> int:
        named = schema.get("type")
        return len(named) if isinstance(named, list) else 0

    return InPlace(root, types, least=1)


def optional(root: object) -> InPlace:
    """Return what counts the properties that may be left out one after the other."""
    return InPlace(root, _longest_run, least=0)


def _longest_run(schema: Mapping[str, Any]) -> int:
    """Return how many properties that may be left out stand between two that may not, at most."""
    properties, required = schema.get("properties"), schema.get("required")
    names = required if isinstance(required, list) else ()
    needed = {name for name in names if isinstance(name, str)}
    longest = run = 0
    for name in properties if isinstance(properties, Mapping) else ():
        run = 0 if name in needed else run + 1
        longest = max(longest, run)
    return longest
