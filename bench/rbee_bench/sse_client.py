"""A client that believes nothing: it reads a stream to its end and holds it to the contract."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any


class StreamFault(Exception):
    """A stream was not what the contract says; one line says how."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came.

    Attributes:
        status: HTTP status; 0 where the connection was closed without one.
        body: Its body.
        first: Monotonic seconds at which the first of it came.
        last: Monotonic seconds at which the last of it came.
    """

    status: int
    body: bytes
    first: float
    last: float


async def ask(port: int, path: str, body: dict[str, object] | None = None) -> Answer:
    """Send a request on a connection of its own, POST where it has a body, and read the answer.

    Raises:
        StreamFault: The answer ended in the middle.
        OSError: There was no connection, or it broke.
    """
    content = b"" if body is None else json.dumps(body).encode()
    method = "GET" if body is None else "POST"
    head = f"{method} {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        writer.write(head.encode() + content)
        pieces: list[bytes] = []
        first = 0.0
        # Nothing is looked at before the end: the client has the worker's processor to share.
        while piece := await reader.read(1 << 16):
            first = first or time.monotonic()
            pieces.append(piece)
        last = time.monotonic()
    finally:
        writer.close()
    whole = b"".join(pieces)
    head_read, blank, rest = whole.partition(b"\r\n\r\n")
    if not blank:
        return Answer(0, b"", first or last, last)
    status = int(head_read.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" in head_read.lower():
        rest = _joined(rest)
    return Answer(status, rest, first, last)


def _joined(chunks: bytes) -> bytes:
    body: list[bytes] = []
    at = 0
    while True:
        end = chunks.find(b"\r\n", at)
        if end < 0:
            raise StreamFault("the answer ended in the middle of a chunk")
        size = int(chunks[at:end], 16)
        if size == 0:
            return b"".join(body)
        body.append(chunks[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


def events(body: bytes) -> list[dict[str, Any]]:
    """Return the events of an inference.

    Raises:
        StreamFault: They are out of order, incomplete, or end other than once and at the end.
    """
    *blocks, rest = body.split(b"\n\n")
    if rest or not blocks or blocks.pop() != b"data: [DONE]":
        raise StreamFault("the stream does not end with [DONE]")
    told = []
    for block in blocks:
        if block.startswith(b":"):
            continue
        if not block.startswith(b"data: ") or b"\n" in block:
            raise StreamFault(f"a line is none of an event: {block[:80]!r}")
        told.append(json.loads(block[6:]))
    kinds = [event["type"] for event in told]
    if kinds[:1] != ["started"] or kinds.count("started") != 1:
        raise StreamFault("the stream does not start once, and first")
    endings = [kind for kind in kinds if kind in ("end", "error")]
    if len(endings) != 1 or kinds[-1] != endings[0]:
        raise StreamFault(f"the stream ends {len(endings)} times, the last event is {kinds[-1]}")
    numbers = [event["i"] for event in told if event["type"] == "output"]
    if numbers != list(range(len(numbers))):
        raise StreamFault("the outputs are not numbered from 0 without gaps")
    return told
