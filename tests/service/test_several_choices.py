"""Requests for several choices at once, and reading several streams at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from stand_in import MODEL, Running, StandInEngine, finished, ready, running, served, text
from support.makers import MakeArtifact

from rbee_runtime.errors import InferenceFailed, QueueFull
from rbee_runtime.events import Event, Failed, Piece, Started, StopReason
from rbee_runtime.request import Request
from rbee_service.http.concurrently import merged
from rbee_service.model_loader import load_model

LONG = "Once upon a time there was a hive, and in the hive there was a queen. " * 3
HELLO: list[Any] = [{"role": "user", "content": LONG}]
CHAT: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 20}


@pytest.fixture
async def worker(
    tmp_path: Path, tiny_llama: Path, make_artifact: MakeArtifact
) -> AsyncIterator[Running]:
    # Whether a prompt was known before changes what is rounded, but hardly in this precision.
    flags = (
        "--model",
        str(make_artifact(tiny_llama, "fp32")),
        "--model-ref",
        "tiny",
        "--slots",
        "4",
    )
    async with running(tmp_path, load_model, *flags) as worker:
        await ready(worker)
        yield worker


@pytest.fixture
async def client(worker: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{worker.url}/v1", api_key="none", max_retries=0, timeout=30
    ) as client:
        yield client


@pytest.mark.parametrize("n", [1, 3, 16])
async def test_each_is_what_its_seed_gives(client: openai.AsyncOpenAI, n: int) -> None:
    asking = CHAT | {"logprobs": True}
    together = await client.chat.completions.create(**asking, n=n, seed=5)
    assert [choice.index for choice in together.choices] == list(range(n))
    for number, choice in enumerate(together.choices[:4]):
        alone = await client.chat.completions.create(**asking, seed=5 + number)
        assert choice.message == alone.choices[0].message
        assert choice.logprobs is not None
        assert alone.choices[0].logprobs is not None
        mine, other = choice.logprobs.content, alone.choices[0].logprobs.content
        assert [one.token for one in mine or []] == [one.token for one in other or []]
    tokens = sum(len(c.logprobs.content or []) for c in together.choices if c.logprobs)
    assert together.usage is not None
    assert together.usage.completion_tokens == tokens
    assert together.usage.total_tokens == together.usage.prompt_tokens + tokens


async def test_streamed(client: openai.AsyncOpenAI) -> None:
    asking = {"model": "tiny", "prompt": LONG, "max_tokens": 20, "n": 3, "seed": 2, "logprobs": 1}
    whole = await client.completions.create(**asking)
    texts, tokens, reasons = [""] * 3, [list[str]() for _ in range(3)], [""] * 3
    usage = None
    async for chunk in await client.completions.create(
        **asking, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage
        for choice in chunk.choices:
            assert not reasons[choice.index]
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or ""
            if choice.logprobs is not None:
                tokens[choice.index] += choice.logprobs.tokens or []
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert tokens == [choice.logprobs and choice.logprobs.tokens for choice in whole.choices]
    assert whole.usage is not None
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


async def test_the_prompt_is_computed_once(worker: Running, client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(**CHAT, n=4)
    assert answer.usage is not None
    prompt = answer.usage.prompt_tokens
    async with httpx.AsyncClient(base_url=worker.url) as plain:
        metrics = (await plain.get("/metrics")).text
    counts = dict(line.split() for line in metrics.splitlines() if " " in line and line[0] != "#")
    assert float(counts["rbee_prompt_tokens_total"]) == 4 * prompt
    # All whole blocks of 32, but for the last token.
    assert float(counts["rbee_reused_tokens_total"]) == 3 * ((prompt - 1) // 32 * 32)


def of_choice(*answers: list[Event]) -> Any:
    def answer(request: Request) -> list[Event]:
        _, _, index = request.request_id.partition("-")
        return answers[int(index or 0)]

    return answer


async def test_the_bytes(tmp_path: Path) -> None:
    ended = [Started(3, 7), Piece("c", 1), finished(StopReason.MAX_TOKENS, 1)]
    engine = StandInEngine(of_choice(text("a", "b"), ended))
    body = {"model": MODEL, "prompt": "x", "n": 2, "seed": 2**64 - 1}
    async with served(tmp_path, engine) as (client, _):
        whole = await client.post("/v1/completions", json=body)
    assert whole.text.endswith(
        '"choices":[{"index":0,"text":"ab","logprobs":null,"finish_reason":"stop"},'
        '{"index":1,"text":"c","logprobs":null,"finish_reason":"length"}],'
        '"usage":{"prompt_tokens":3,"completion_tokens":3,"total_tokens":6,'
        '"prompt_tokens_details":{"cached_tokens":0}}}'
    )
    assert [one.sampling.seed for one in engine.submitted] == [2**64 - 1, 0]


@pytest.mark.parametrize("stream", [False, True])
async def test_one_that_fails_ends_them_all(tmp_path: Path, stream: bool) -> None:
    endless: list[Event] = [Started(3, 7), Piece("a", 1)]
    broken = [Started(3, 7), Piece("b", 1), Failed(InferenceFailed("no"))]
    engine = StandInEngine(of_choice(endless, broken, endless))
    body = {"model": MODEL, "prompt": "x", "n": 3, "stream": stream}
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post("/v1/completions", json=body)
        if stream:
            *_, error, done, _ = answer.text.split("\n\n")
            assert done == "data: [DONE]"
            assert "error" in json.loads(error.removeprefix("data: "))
        else:
            assert answer.status_code == 500
        names = {request.request_id for request in engine.submitted}
        assert set(engine.cancelled) >= {name for name in names if not name.endswith("-1")}


async def test_all_are_taken_or_none(tmp_path: Path) -> None:
    class Full(StandInEngine):
        def submit(self, request: Request, sink: Any) -> None:
            if len(self.submitted) == 2:
                raise QueueFull("2 requests are waiting already")
            super().submit(request, sink)

    engine = Full(lambda _: [Started(3, 7)])
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post("/v1/completions", json={"model": MODEL, "prompt": "x", "n": 3})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert len(set(engine.cancelled)) == 2


async def test_requests_take_their_places_one_after_the_other(tmp_path: Path) -> None:
    """Or each would have some, where there are not enough for all, and none would be served."""
    engine = StandInEngine()
    body = {"model": MODEL, "prompt": "x", "n": 4}
    async with served(tmp_path, engine) as (client, _):
        asking = [client.post("/v1/completions", json=body) for _ in range(8)]
        answers = await asyncio.gather(*asking)
    assert {answer.status_code for answer in answers} == {200}
    of_whom = [request.request_id.partition("-")[0] for request in engine.submitted]
    assert [whom for whom, _ in groupby(of_whom)] == list(dict.fromkeys(of_whom))


@pytest.mark.parametrize("stream", [False, True])
async def test_more_than_can_ever_be_taken(
    tmp_path: Path, tiny_artifact: Path, stream: bool
) -> None:
    flags = ("--model", str(tiny_artifact), "--model-ref", "tiny", "--slots", "2")
    async with running(tmp_path, load_model, *flags, "--max-queue", "1") as worker:
        await ready(worker)
        async with httpx.AsyncClient(base_url=worker.url) as client:
            body = {"model": "tiny", "prompt": "x", "max_tokens": 2, "stream": stream}
            most = await client.post("/v1/completions", json=body | {"n": 3})
            more = await client.post("/v1/completions", json=body | {"n": 4})
    assert most.status_code == 200
    assert more.status_code == 400
    assert more.json()["error"] == {
        "message": "n must be at most 3 here: 2 are served at a time, and 1 more may wait",
        "type": "invalid_request_error",
        "param": "n",
        "code": "invalid_value",
    }


async def numbers(count: int, closed: list[int], fails: bool = False) -> AsyncGenerator[int, None]:
    try:
        for number in range(count):
            await asyncio.sleep(0)
            yield number
        if fails:
            raise ValueError("broken")
    finally:
        closed.append(count)


@pytest.mark.parametrize("counts", [[3], [0, 5, 2], [1, 1], []])
async def test_merged(counts: list[int]) -> None:
    closed: list[int] = []
    streams = [numbers(count, closed) for count in counts]
    got = [one async for one in merged(streams)]
    for number, count in enumerate(counts):
        assert [value for stream, value in got if stream == number] == list(range(count))
    assert sorted(closed) == sorted(counts)


async def test_merged_streams_are_closed_when_one_fails_or_nobody_reads_on() -> None:
    closed: list[int] = []
    with pytest.raises(ValueError, match="broken"):
        async for _ in merged([numbers(9, closed), numbers(2, closed, fails=True)]):
            pass
    assert sorted(closed) == [2, 9]
    reading = merged([numbers(8, closed), numbers(3, closed)])
    await anext(reading)
    await reading.aclose()
    assert sorted(closed) == [2, 3, 8, 9]
