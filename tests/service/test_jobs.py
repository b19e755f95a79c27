"""Jobs: created, then streamed once, cancelled at every stage, and forgotten in time."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from stand_in import StandInEngine, endless, finished, served, text

from rbee_runtime.errors import ContextOverflow, EngineClosed, OutOfMemory, QueueFull
from rbee_runtime.events import Failed, Piece, Started, StopReason
from rbee_service.errors import ApiError, ErrorCode
from rbee_service.jobs import EXPIRY_SECONDS, MOST_WAITING, JobBoard

GOOD: dict[str, Any] = {
    "operation": "infer",
    "hive_id": "localhost",
    "model": "hf:test/stand-in",
    "prompt": "Hello",
    "max_tokens": 16,
    "temperature": 0.7,
}

STREAM = """\
data: {"type":"started","job_id":"JOB","model":"hf:test/stand-in","started_at":"NOW"}

data: {"type":"output","t":"Hello","i":0}

data: {"type":"output","t":" world","i":1}

data: {"type":"metrics","tokens_per_sec":2.0,"vram_bytes":536870912}

data: {"type":"end","items_out":2,"decode_time_ms":500,"stop_reason":"EOS"}

data: [DONE]

"""


async def create(client: httpx.AsyncClient, **changed: Any) -> str:
    answer = await client.post("/v1/jobs", json=GOOD | changed)
    assert answer.status_code == 200
    job_id: str = answer.json()["job_id"]
    return job_id


def last(stream: bytes) -> bytes:
    *_, ending, rest = stream.split(b"\n\n")
    assert rest == b""
    return ending


async def test_a_job_from_creation_to_end(tmp_path: Path) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        created = await client.post("/v1/jobs", json=GOOD)
        match = re.fullmatch(
            rb'\{"job_id":"([0-9a-f]{32})","sse_url":"/v1/jobs/([0-9a-f]{32})/stream"\}',
            created.content,
        )
        assert match is not None
        assert match[1] == match[2]
        assert not engine.submitted, "the work begins with the stream"
        stream = await client.get(created.json()["sse_url"])
    assert stream.headers["content-type"] == "text/event-stream"
    told = re.sub(r'"started_at":"[^"]+"', '"started_at":"NOW"', stream.text)
    told = re.sub(r'data: \{"type":"narration",[^\n]+\n\n', "", told)
    assert told == STREAM.replace("JOB", match[1].decode())
    [request] = engine.submitted
    assert (request.prompt, request.max_tokens, request.sampling.temperature) == ("Hello", 16, 0.7)


async def test_a_job_is_streamed_once(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        url = f"/v1/jobs/{await create(client)}"
        assert (await client.get(f"{url}/stream")).status_code == 200
        for answer in (await client.get(f"{url}/stream"), await client.delete(url)):
            assert answer.status_code == 404
            assert answer.content == (
                b'{"code":"INVALID_REQUEST","message":"there is no job of this name",'
                b'"retriable":false}'
            )


async def test_two_readers_race_for_one_stream(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        url = f"/v1/jobs/{await create(client)}/stream"
        answers = await asyncio.gather(*(client.get(url) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [404] * 7


async def test_a_job_cancelled_before_its_stream(tmp_path: Path) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        job_id = await create(client)
        for _ in range(2):
            cancelled = await client.delete(f"/v1/jobs/{job_id}")
            assert cancelled.status_code == 202
            assert cancelled.json() == {"job_id": job_id}
        stream = await client.get(f"/v1/jobs/{job_id}/stream")
    assert stream.content == b"data: [CANCELLED]\n\n"
    assert not engine.submitted


async def test_a_job_cancelled_in_its_stream(tmp_path: Path) -> None:
    engine = StandInEngine(endless)
    async with served(tmp_path, engine) as (client, _):
        job_id = await create(client)
        reading = asyncio.create_task(client.get(f"/v1/jobs/{job_id}/stream"))
        await engine.wait(lambda: engine.live == 1)
        assert (await client.delete(f"/v1/jobs/{job_id}")).status_code == 202
        stream = (await reading).content
    assert stream.count(b'"stop_reason":"CANCELLED"') == 1
    assert last(stream) == b"data: [CANCELLED]"
    assert b"[DONE]" not in stream


async def test_a_reader_that_goes_away_ends_the_job(tmp_path: Path) -> None:
    engine = StandInEngine(endless)
    async with served(tmp_path, engine) as (client, _):
        job_id = await create(client)
        async with client.stream("GET", f"/v1/jobs/{job_id}/stream") as answer:
            await anext(answer.aiter_raw())
        await engine.wait(lambda: engine.live == 0 and len(engine.cancelled) == 1)
        assert (await client.delete(f"/v1/jobs/{job_id}")).status_code == 404


async def test_a_job_that_fails_says_why_on_one_line(tmp_path: Path) -> None:
    engine = StandInEngine(lambda _: [Started(3, 7), Failed(OutOfMemory("no\n memory"))])
    async with served(tmp_path, engine) as (client, _):
        stream = await client.get(f"/v1/jobs/{await create(client)}/stream")
    assert stream.content.endswith(
        b'data: {"type":"error","code":"VRAM_OOM","message":"no\\n memory"}\n\n'
        b"data: [ERROR] no memory\n\n"
    )


@pytest.mark.parametrize(
    "refusal", [ContextOverflow(1000, 1100, 2048), EngineClosed("the engine is closed")]
)
async def test_a_job_that_can_never_be_served(tmp_path: Path, refusal: Any) -> None:
    engine = StandInEngine(refusal=refusal)
    async with served(tmp_path, engine) as (client, _):
        job_id = await create(client)
        stream = await client.get(f"/v1/jobs/{job_id}/stream")
        again = await client.get(f"/v1/jobs/{job_id}/stream")
    assert stream.status_code == 200
    assert stream.content == f"data: [ERROR] {refusal}\n\n".encode()
    assert again.status_code == 404


async def test_a_full_queue_leaves_the_job_waiting(tmp_path: Path) -> None:
    engine = StandInEngine(refusal=QueueFull("the queue is full"))
    async with served(tmp_path, engine) as (client, _):
        url = f"/v1/jobs/{await create(client)}/stream"
        refused = await client.get(url)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        engine.refusal = None
        assert last((await client.get(url)).content) == b"data: [DONE]"


async def test_the_headers_of_creation_and_stream(tmp_path: Path) -> None:
    engine = StandInEngine()
    soon, later = (str(int((time.time() + s) * 1000)) for s in (60, 600))
    dialect = "X-RBEE-SSE-Dialect"
    async with served(tmp_path, engine) as (client, _):
        created = await client.post(
            "/v1/jobs", json=GOOD, headers={dialect: "token", "X-Deadline": soon}
        )
        stream = await client.get(created.json()["sse_url"], headers={"X-Deadline": later})
        created = await client.post("/v1/jobs", json=GOOD, headers={dialect: "token"})
        other = await client.get(created.json()["sse_url"], headers={dialect: "output"})
    assert b'{"type":"token","t":"Hello","i":0}' in stream.content
    assert b'{"type":"output","t":"Hello","i":0}' in other.content
    deadline = engine.submitted[0].deadline
    assert deadline is not None
    assert deadline - time.monotonic() <= 60
    assert engine.submitted[1].deadline is None


@pytest.mark.parametrize(
    ("changed", "field", "constraint"),
    [
        ({"operation": "worker_spawn"}, "operation", "one_of(infer)"),
        ({"operation": None}, "operation", "required"),
        ({"max_tokens": 0}, "max_tokens", "range(1..=2048)"),
        ({"prompt": ""}, "prompt", "length(1..=32768)"),
        ({"stream": "yes"}, "stream", "type(boolean)"),
        ({"model": 7}, "model", "type(string)"),
    ],
)
async def test_a_bad_job(
    tmp_path: Path, changed: dict[str, Any], field: str, constraint: str
) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        answer = await client.post("/v1/jobs", content=json.dumps(GOOD | changed))
    assert answer.status_code == 400
    [fault] = answer.json()["errors"]
    assert (fault["field"], fault["constraint"]) == (field, constraint)


async def test_no_more_than_so_many_wait(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        names = {await create(client) for _ in range(MOST_WAITING)}
        assert len(names) == MOST_WAITING
        refused = await client.post("/v1/jobs", json=GOOD)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        await client.get(f"/v1/jobs/{names.pop()}/stream")
        await create(client)


async def test_the_stop_string_of_a_job(tmp_path: Path) -> None:
    engine = StandInEngine(
        lambda _: [Started(3, 7), Piece("a", 1), finished(StopReason.STOP_SEQUENCE, 1, "\n")]
    )
    async with served(tmp_path, engine) as (client, _):
        job_id = await create(client, stop=["\n"])
        stream = await client.get(f"/v1/jobs/{job_id}/stream")
    assert b'"stop_sequence_matched":"\\n"' in stream.content
    assert engine.submitted[0].stop == ("\n",)


async def test_many_jobs_at_once(tmp_path: Path) -> None:
    engine = StandInEngine(lambda request: text(*str(request.prompt)))
    async with served(tmp_path, engine) as (client, _):

        async def run(prompt: str) -> str:
            stream = await client.get(f"/v1/jobs/{await create(client, prompt=prompt)}/stream")
            return "".join(re.findall(r'"output","t":"([^"]*)"', stream.text))

        prompts = [f"prompt number {number}" for number in range(30)]
        assert await asyncio.gather(*map(run, prompts)) == prompts


def test_a_job_that_nobody_streams_is_forgotten() -> None:
    now = 0.0
    board: JobBoard[str] = JobBoard(lambda: now)
    first = board.create("first")
    now = EXPIRY_SECONDS / 2
    second = board.create("second")
    now = EXPIRY_SECONDS
    with pytest.raises(ApiError):
        board.cancel(first)
    with board.streamed(second) as job:
        now = 10 * EXPIRY_SECONDS
        board.cancel(second)
        assert job.cancelled
    with pytest.raises(ApiError), board.streamed(second):
        pass


def test_a_job_put_back_keeps_its_time() -> None:
    now = 0.0
    board: JobBoard[str] = JobBoard(lambda: now)
    first = board.create("first")
    now = 1.0
    second = board.create("second")
    with pytest.raises(ApiError), board.streamed(first):
        raise ApiError(ErrorCode.INSUFFICIENT_RESOURCES, "the queue is full")
    now = EXPIRY_SECONDS
    with pytest.raises(ApiError), board.streamed(first):
        pass
    with board.streamed(second) as job:
        assert job.payload == "second"


def test_a_job_cancelled_while_it_is_being_submitted() -> None:
    board: JobBoard[str] = JobBoard()
    job_id = board.create("x")
    calls: list[str] = []
    with board.streamed(job_id) as job:
        board.cancel(job_id)
        assert not calls
        job.begun(lambda: calls.append("cancelled"))
    assert calls == ["cancelled"]
