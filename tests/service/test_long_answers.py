"""Answers of megabytes: nobody else waits while they are written."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from stand_in import MODEL, StandInEngine, bodies, finished, served

from rbee_runtime.events import Event, Piece, Started, StopReason
from rbee_runtime.logprobs import TokenLogprob, TokenLogprobs

TOKENS = 900
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
CHAT = {"messages": HELLO, "logprobs": True, "top_logprobs": 20}
TEXT = {"prompt": "x", "logprobs": 5}


def measured(alternatives: int) -> list[Event]:
    """Return the events of a completion, which a test makes before it looks at memory."""

    def known(token: int) -> TokenLogprobs:
        top = tuple(TokenLogprob(token + n, -n / 7) for n in range(alternatives))
        return TokenLogprobs(token, -1 / 3, top, token)

    pieces = [Piece("a", token + 1, (known(token),)) for token in range(TOKENS)]
    return [Started(3, 7), *pieces, finished(StopReason.MAX_TOKENS, TOKENS)]


@asynccontextmanager
async def most_at_once() -> AsyncIterator[list[int]]:
    """Find out how many bytes were taken at most from one turn of the event loop to the next."""
    most = [0]

    async def look() -> None:
        while True:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            await asyncio.sleep(0)
            most[0] = max(most[0], tracemalloc.get_traced_memory()[1] - before)

    tracemalloc.start()
    looking = asyncio.create_task(look())
    try:
        yield most
    finally:
        looking.cancel()
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("path", "asked", "n"),
    [
        ("chat/completions", CHAT, 1),
        ("chat/completions", CHAT, 3),
        ("chat/completions", CHAT | {"stream": True}, 1),
        ("completions", TEXT, 3),
    ],
)
async def test_log_probabilities_are_written_bit_by_bit(
    tmp_path: Path, path: str, asked: dict[str, Any], n: int
) -> None:
    events = measured(20 if path.startswith("chat") else 5)
    body = {"model": MODEL, **asked, "n": n}
    async with served(tmp_path, StandInEngine(lambda _: events)) as (client, _):
        await client.post(f"/v1/{path}", json=body | {"max_tokens": 1})
        size = 0
        async with (
            most_at_once() as most,
            client.stream("POST", f"/v1/{path}", json=body) as answer,
        ):
            async for some in answer.aiter_raw(1 << 16):
                size += len(some)
        whole = await client.post(f"/v1/{path}", json=body)
    told = bodies(whole.content) if asked.get("stream") else [whole.json()]
    logprobs = [one["logprobs"] for part in told for one in part["choices"] if one["logprobs"]]
    known = [one.get("content") or one["tokens"] for one in logprobs]
    assert sum(map(len, known)) == n * TOKENS
    assert len(whole.content) == size
    if not asked.get("stream"):
        assert answer.headers["content-length"] == str(size)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-correlation-id"]
    assert most[0] < 1 << 20, "much of it was written at once"


@pytest.mark.parametrize("stream", [False, True])
async def test_those_of_a_response_too(tmp_path: Path, *, stream: bool) -> None:
    """Of which a stream tells again, whenever something has come to its end."""
    events = measured(20)
    body: dict[str, Any] = {"model": MODEL, "input": "Hello", "top_logprobs": 20, "stream": stream}
    body["include"] = ["message.output_text.logprobs"]
    async with served(tmp_path, StandInEngine(lambda _: events)) as (client, _):
        await client.post("/v1/responses", json=body | {"max_output_tokens": 1})
        size = told = 0
        async with (
            most_at_once() as most,
            client.stream("POST", "/v1/responses", json=body) as answer,
        ):
            async for some in answer.aiter_raw(1 << 16):
                size += len(some)
                told += some.count(b'"bytes":')
    assert size > 1 << 20
    assert told == pytest.approx(TOKENS * 21 * (5 if stream else 1), rel=0.01)
    assert most[0] < 1 << 20, "much of it was written at once"
