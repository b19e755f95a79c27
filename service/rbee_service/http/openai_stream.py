"""Streams of the OpenAI API: completions told while they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar

import structlog

from rbee_runtime.events import Event
from rbee_service.errors import ApiError, ErrorCode
from rbee_service.events import End, Failed, Output, TokenOutput
from rbee_service.http.concurrently import merged
from rbee_service.http.inferences import Begun
from rbee_service.http.replies import BLOCK, Chunk

PieceT = TypeVar("PieceT")
PieceT_co = TypeVar("PieceT_co", covariant=True)
PieceT_contra = TypeVar("PieceT_contra", contravariant=True)


class Teller(Protocol[PieceT_co]):
    """Tells of one completion.

    Attributes:
        begun: Its inference.
    """

    @property
    def begun(self) -> Begun[Event, TokenOutput]: ...  # noqa: D102

    def first(self) -> Iterator[PieceT_co]:
        """Yield what comes before its text."""

    def pieces(self, told: Output[TokenOutput]) -> Iterator[PieceT_co]:
        """Yield what some text adds."""

    def last(self, ended: End) -> Iterator[PieceT_co]:
        """Yield what comes after its text."""


class Wording(Protocol[PieceT_contra]):
    """Writes what is told of one completion or several."""

    def piece(self, piece: PieceT_contra) -> list[bytes | bytearray]:
        """Return the bytes of one thing that is told, in parts."""

    def failed(self, failure: ApiError) -> list[bytes | bytearray]:
        """Return those that end a stream whose completions cannot all be finished."""

    def done(self) -> bytes:
        """Return those that end any other."""


async def chunks(
    tellers: Sequence[Teller[PieceT]], wording: Wording[PieceT]
) -> AsyncGenerator[Chunk, None]:
    """Yield the bytes of a stream, as they are there.

    Args:
        tellers: Of the completions, which are told side by side.
        wording: Writes what they tell.
    """
    left = len(tellers)
    try:
        for teller in tellers:
            for piece in teller.first():
                yield wording.piece(piece)
        async with aclosing(merged([one.begun.inference.batches() for one in tellers])) as batches:
            async for index, batch in batches:
                teller, chunk = tellers[index], b""
                for event in batch:
                    told: Iterator[PieceT] = iter(())
                    match event:
                        case Output():
                            told = teller.pieces(event)
                        case End() | Failed():
                            lacking = teller.begun.lacking
                            if lacking is not None:
                                yield [chunk, *wording.failed(lacking)]
                                return
                            if isinstance(event, End):
                                told = teller.last(event)
                            left -= 1
                    for piece in told:
                        parts = wording.piece(piece)
                        if len(chunk) + sum(map(len, parts)) <= BLOCK:
                            chunk += b"".join(parts)
                            continue
                        # A slow client's are many, or one is long, and others wait.
                        yield [chunk, *parts]
                        chunk = b""
                        await asyncio.sleep(0)
                if left == 0:
                    chunk += wording.done()
                yield chunk
    except Exception:
        # A client must read an end even where the fault is ours.
        structlog.get_logger().exception("An event could not be told")
        yield wording.failed(ApiError(ErrorCode.INTERNAL, "internal error"))
