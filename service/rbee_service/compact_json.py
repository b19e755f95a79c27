"""JSON without blank space, in UTF-8."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

Parts: TypeAlias = Iterable[bytes | bytearray]
"""A text in parts, of any size, which come one after the other."""


def json_bytes(value: object) -> bytes:
    """Return a value as JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def json_object(members: Mapping[str, Parts]) -> Iterator[bytes | bytearray]:
    """Yield an object whose members have been written already, by their names."""
    yield b"{"
    for number, (name, value) in enumerate(members.items()):
        yield (b"," if number else b"") + json_bytes(name) + b":"
        yield from value
    yield b"}"


def json_array(items: Iterable[Parts]) -> Iterator[bytes | bytearray]:
    """Yield an array whose items have been written already."""
    yield b"["
    for number, item in enumerate(items):
        if number:
            yield b","
        yield from item
    yield b"]"
