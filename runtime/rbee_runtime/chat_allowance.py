"""What rendering a chat template may cost, and the price of each thing that a template does.

Prices are in units: one is a character made or an item read. What makes much out of little is
paid for before it is done.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2

_SECONDS = 10.0
"""Of a processor, for what the units miss, such as comparing long texts again and again. Those that
other work takes on a busy machine do not count: an honest template is not to fail by them.
"""
_STEP = 16
"""What a call or a turn of a loop costs."""
_ITEM = 8
"""What each part of a list or dictionary costs that came into being: more than a character."""

_HIGHEST_WIDTH = 6  # digits


def measure(value: object, most: float = float("inf")) -> tuple[int, int]:
    """Return how long a value is when written out, and of how many parts it is made.

    Each part counts as often as it occurs: a list that holds another one twice is short, but what
    holds it twice in its turn, and so on, is as long as the memory.

    Raises:
        jinja2.TemplateRuntimeError: It is longer than ``most``.
    """
    length, parts, waiting = 0, 0, [value]
    while waiting:
        item = waiting.pop()
        parts += 1
        if isinstance(item, str | bytes):
            length += len(item)
        elif isinstance(item, Mapping):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            waiting.extend(item)
        elif isinstance(item, int):
            length += item.bit_length() // 3
        if length + parts > most:
            raise jinja2.TemplateRuntimeError("the template makes too much text")
    return length + parts, parts


def _length(value: object) -> int:
    sized = isinstance(value, str | bytes | list | tuple | dict | range | set)
    return len(value) if sized else 0  # type: ignore[arg-type]


class Allowance:
    """What a rendering may still cost.

    Every method that draws on it raises :class:`jinja2.TemplateRuntimeError` once it is used up.

    Attributes:
        left: Units.
    """

    def __init__(self, units: int) -> None:
        self.left = units
        self._deadline = time.thread_time() + _SECONDS

    def spend(self, units: int) -> None:
        """Draw on the allowance."""
        self.left -= units
        if self.left < 0:
            raise jinja2.TemplateRuntimeError("the template does too much work")
        if time.thread_time() > self._deadline:
            raise jinja2.TemplateRuntimeError(f"the template takes over {_SECONDS:.0f} seconds")

    def spend_step(self, characters: int = 0, reads: Iterable[object] = ()) -> None:
        """Pay for one call or turn, with what it writes by itself and the values it reads."""
        self.spend(_STEP + characters + sum(map(_length, reads)))

    def spend_text(self, value: object) -> None:
        """Pay for a value to be written out."""
        length, _ = measure(value, self.left)
        self.spend(length)

    def made(self, value: Any) -> Any:
        """Pay for a value that came into being, and return it; an iterator pays as it is read."""
        if isinstance(value, Iterator):
            return self._counted(value)
        if isinstance(value, str | bytes):
            self.spend(len(value))
        else:
            _, parts = measure(value, self.left)
            self.spend(_ITEM * parts)
        return value

    def _counted(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(1)
            yield item

    def spend_repeat(self, value: object, times: int) -> None:
        """Pay for a text or list to be repeated."""
        self.spend(max(times, 0) * (1 + _length(value)))

    def spend_join(self, items: Sequence[object], glue: int) -> None:
        """Pay for items to be joined, with ``glue`` characters between each two."""
        self.spend_text(items)
        self.spend(glue * len(items))

    def spend_replace(self, text: str, old: object, new: object) -> None:
        """Pay for every ``old`` in a text to become ``new``."""
        if isinstance(old, str) and isinstance(new, str):
            self.spend(len(text) + text.count(old) * len(new))

    def spend_format(self, form: str, fields: int, values: object) -> None:
        """Pay for a form to be filled, each of its fields with all of the values.

        Raises:
            jinja2.TemplateRuntimeError: Also where a width is great, or is itself a value.
        """
        widths = re.findall(r"\d+", form)
        if any(len(width) > _HIGHEST_WIDTH for width in widths) or re.search(
            r"%[^a-zA-Z%]*\*|:[^{}]*\{", form
        ):
            raise jinja2.TemplateRuntimeError("the template formats to too great a width")
        length, _ = measure(values, self.left)
        self.spend(len(form) + sum(map(int, widths)) + fields * length)
