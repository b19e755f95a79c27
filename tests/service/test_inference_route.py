"""``POST /v1/inference`` over real sockets: refusals, deadlines, disconnects, faults."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stand_in import StandInEngine, bodies, endless, finished, served, text

from rbee_runtime.errors import (
    ContextOverflow,
    DeadlineExceeded,
    EngineClosed,
    InferenceFailed,
    InvalidRequest,
    OutOfMemory,
    QueueFull,
    RuntimeFault,
)
from rbee_runtime.events import Event, Failed, Piece
from rbee_runtime.request import Request, SamplingParams

GOOD: dict[str, Any] = {"job_id": "job-1", "prompt": "Hello", "max_tokens": 16}


async def test_the_engine_gets_what_was_asked_for(tmp_path: Path) -> None:
    engine = StandInEngine()
    asked = GOOD | {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 10**20,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
        "stop": ["\n", "END"],
        "seed": 2**64 - 1,
    }
    async with served(tmp_path, engine) as (client, _):
        await client.post("/v1/inference", json=asked)
        await client.post("/v1/inference", json=GOOD)
    first, second = engine.submitted
    assert first.sampling == SamplingParams(
        repetition_penalty=1.5,
        temperature=0.0,
        top_k=2**31 - 1,
        top_p=0.5,
        min_p=0.1,
        seed=2**64 - 1,
    )
    assert (first.prompt, first.max_tokens, first.stop) == ("Hello", 16, ("\n", "END"))
    assert first.deadline is None
    # Two jobs of one name are two requests.
    assert first.request_id != second.request_id


@pytest.mark.parametrize(
    ("fault", "status", "code", "retriable"),
    [
        (QueueFull("the queue is full"), 503, "INSUFFICIENT_RESOURCES", True),
        (EngineClosed("the engine is closed"), 503, "WORKER_UNHEALTHY", False),
        (OutOfMemory("no memory"), 507, "INSUFFICIENT_VRAM", False),
        (InferenceFailed("it failed"), 500, "INTERNAL", True),
        (DeadlineExceeded("too late"), 504, "INFERENCE_TIMEOUT", True),
    ],
)
async def test_a_request_the_engine_does_not_take(
    tmp_path: Path, fault: RuntimeFault, status: int, code: str, retriable: bool
) -> None:
    async with served(tmp_path, StandInEngine(refusal=fault)) as (client, _):
        answer = await client.post("/v1/inference", json=GOOD)
    assert answer.status_code == status
    body = answer.json()
    assert list(body) == ["code", "message", "retriable"]
    assert (body["code"], body["retriable"]) == (code, retriable)
    assert ("retry-after" in answer.headers) == isinstance(fault, QueueFull)


async def test_a_prompt_that_does_not_fit(tmp_path: Path) -> None:
    engine = StandInEngine(refusal=ContextOverflow(1000, 1100, 2048))
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post("/v1/inference", json=GOOD)
    assert answer.status_code == 400
    [fault] = answer.json()["errors"]
    assert (fault["field"], fault["constraint"]) == ("prompt", "context_length(2048)")
    assert "1000" in fault["message"]
    assert "1100" in fault["message"]
    assert "2048" in fault["message"]


async def test_a_request_the_engine_can_never_serve(tmp_path: Path) -> None:
    engine = StandInEngine(refusal=InvalidRequest("stop", "stop must be short"))
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post("/v1/inference", json=GOOD)
    assert answer.status_code == 400
    assert answer.json() == {
        "errors": [{"field": "stop", "constraint": "servable", "message": "stop must be short"}]
    }


async def test_a_fault_of_the_engine_that_nobody_foresaw(tmp_path: Path) -> None:
    engine = StandInEngine()
    engine.refusal = ZeroDivisionError("prompt: SECRET")  # type: ignore[assignment]
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post("/v1/inference", json=GOOD)
        engine.refusal = None
        after = await client.post("/v1/inference", json=GOOD)
    assert answer.status_code == 500
    assert answer.json() == {"code": "INTERNAL", "message": "internal error", "retriable": True}
    assert after.status_code == 200


async def test_a_fault_of_ours_ends_the_stream_properly(tmp_path: Path) -> None:
    nonsense = replace(finished(), reason=None)  # type: ignore[arg-type]
    engine = StandInEngine(lambda _: [*endless(_), nonsense])
    async with served(tmp_path, engine) as (client, _):
        told = bodies((await client.post("/v1/inference", json=GOOD)).content)
    assert told[-1] == {"type": "error", "code": "INFERENCE_FAILED", "message": "internal error"}


async def test_a_failure_in_the_middle(tmp_path: Path) -> None:
    engine = StandInEngine(lambda _: [*endless(_), Failed(OutOfMemory("no memory"))])
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post("/v1/inference", json=GOOD)
    told = bodies(answer.content)
    assert answer.status_code == 200
    assert told[-1] == {"type": "error", "code": "VRAM_OOM", "message": "no memory"}
    assert not any(event["type"] == "end" for event in told)


async def test_a_failure_before_the_engine_began(tmp_path: Path) -> None:
    engine = StandInEngine(lambda _: [Failed(DeadlineExceeded("too late"))])
    async with served(tmp_path, engine) as (client, _):
        told = bodies((await client.post("/v1/inference", json=GOOD)).content)
    assert told[0]["type"] == "started"
    assert told[-1] == {"type": "error", "code": "TIMEOUT", "message": "too late"}


async def test_all_faults_of_body_and_headers(tmp_path: Path) -> None:
    headers = {"X-RBEE-SSE-Dialect": "morse", "X-Deadline": "tomorrow"}
    async with served(tmp_path, StandInEngine()) as (client, _):
        answer = await client.post("/v1/inference", json={"max_tokens": 0}, headers=headers)
    assert answer.status_code == 400
    assert [fault["field"] for fault in answer.json()["errors"]] == [
        "prompt",
        "max_tokens",
        "job_id",
        "X-RBEE-SSE-Dialect",
        "X-Deadline",
    ]


async def test_a_body_that_is_too_large(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        answer = await client.post("/v1/inference", content=b" " * ((1 << 20) + 1))
        assert answer.status_code == 413
        assert list(answer.json()) == ["code", "message", "retriable"]
        largest = json.dumps(GOOD | {"prompt": "🐝" * 32768}).encode()
        assert (await client.post("/v1/inference", content=largest)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/inference", 405),
        ("DELETE", "/health", 405),
        ("GET", "/", 404),
        ("GET", "/v1/../../etc/passwd", 404),
        ("POST", "/v1/inference/x", 404),
    ],
)
async def test_what_is_not_served(tmp_path: Path, method: str, path: str, status: int) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["code", "message", "retriable"]
    assert ("allow" in answer.headers) == (status == 405)
    assert ("/docs" in answer.json()["message"]) == (status == 404)


async def test_a_deadline_that_has_passed(tmp_path: Path) -> None:
    engine = StandInEngine()
    past = str(int((time.time() - 1) * 1000))
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post("/v1/inference", json=GOOD, headers={"X-Deadline": past})
    assert answer.status_code == 504
    assert answer.json()["code"] == "INFERENCE_TIMEOUT"
    assert not engine.submitted


async def test_a_deadline_to_come(tmp_path: Path) -> None:
    engine = StandInEngine()
    deadline = str(int((time.time() + 60) * 1000))
    async with served(tmp_path, engine) as (client, _):
        await client.post("/v1/inference", json=GOOD, headers={"X-Deadline": deadline})
    [request] = engine.submitted
    assert request.deadline is not None
    assert 55 < request.deadline - time.monotonic() <= 60


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("abc-DEF_1.2", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("two words", False),
        ("{}", False),
        ("", False),
        (None, False),
    ],
)
async def test_the_correlation_id(tmp_path: Path, sent: str | None, kept: bool) -> None:
    headers = {} if sent is None else {"X-Correlation-ID": sent}
    async with served(tmp_path, StandInEngine()) as (client, _):
        answers = [
            await client.post("/v1/inference", json=GOOD, headers=headers),
            await client.post("/v1/inference", json={}, headers=headers),
            await client.get("/health", headers=headers),
            await client.get("/nowhere", headers=headers),
        ]
    ids = [answer.headers["x-correlation-id"] for answer in answers]
    assert (set(ids) == {sent}) if kept else (sent not in ids and len(set(ids)) == len(ids))
    narrations = [e for e in bodies(answers[0].content) if e["type"] == "narration"]
    assert narrations
    assert {narration["correlation_id"] for narration in narrations} == {ids[0]}


async def test_a_client_that_goes_away_frees_the_slot(tmp_path: Path) -> None:
    engine = StandInEngine(endless)
    async with served(tmp_path, engine) as (_, worker):
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        body = json.dumps(GOOD).encode()
        writer.write(
            b"POST /v1/inference HTTP/1.1\r\nHost: worker\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        await reader.readuntil(b'"output"')
        assert engine.live == 1
        writer.close()
        await engine.wait(lambda: engine.live == 0)
    assert engine.cancelled == [engine.submitted[0].request_id]


async def test_a_client_that_goes_away_while_its_prompt_is_read(tmp_path: Path) -> None:
    """The engine has the request only after the client has left: it is cancelled all the same."""
    engine = StandInEngine(endless)
    submit, hold = engine.submit, asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow_submit(request: Request, sink: Any) -> None:
        asyncio.run_coroutine_threadsafe(hold.wait(), loop).result(10)
        submit(request, sink)

    engine.submit = slow_submit  # type: ignore[method-assign]
    async with served(tmp_path, engine) as (_, worker):
        _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        body = json.dumps(GOOD).encode()
        writer.write(
            b"POST /v1/inference HTTP/1.1\r\nHost: worker\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        hold.set()
        await engine.wait(lambda: len(engine.cancelled) == 1)
        assert engine.live == 0


async def test_a_cancelled_inference_ends_like_any_other(tmp_path: Path) -> None:
    engine = StandInEngine(endless)
    async with served(tmp_path, engine) as (client, _):
        asking = asyncio.create_task(client.post("/v1/inference", json=GOOD))
        await engine.wait(lambda: engine.live == 1)
        engine.cancel(engine.submitted[0].request_id)
        told = bodies((await asking).content)
    assert told[-1]["type"] == "end"
    assert told[-1]["stop_reason"] == "CANCELLED"
    assert told[-2]["type"] == "metrics"


async def test_many_at_once_each_get_their_own(tmp_path: Path) -> None:
    engine = StandInEngine(lambda request: text(*str(request.prompt)))
    async with served(tmp_path, engine) as (client, _):
        prompts = [f"prompt number {number}" for number in range(30)]
        answers = await asyncio.gather(
            *(client.post("/v1/inference", json=GOOD | {"prompt": p}) for p in prompts)
        )
    for prompt, answer in zip(prompts, answers, strict=True):
        told = bodies(answer.content)
        outputs = [event for event in told if event["type"] == "output"]
        assert "".join(event["t"] for event in outputs) == prompt
        assert [event["i"] for event in outputs] == list(range(len(prompt)))
    assert not engine.cancelled


async def test_a_connection_serves_one_request_after_another(tmp_path: Path) -> None:
    """Events of a request that has ended do not reach the next one."""
    engine = StandInEngine(lambda _: [*text("a"), Piece("late", 9), finished()])
    async with served(tmp_path, engine) as (client, _):
        for _ in range(3):
            told = bodies((await client.post("/v1/inference", json=GOOD)).content)
            assert [event["t"] for event in told if event["type"] == "output"] == ["a"]


async def test_a_refused_request_is_let_go_at_once(tmp_path: Path) -> None:
    """The garbage collector may come by much later, and prompts be megabytes."""

    asked: list[str] = []

    class Refusing(StandInEngine):
        def submit(self, request: Request, sink: Callable[[Event], None]) -> None:
            asked.append(request.request_id)
            raise ContextOverflow(17, 16, 32)

    chat = {"model": "hf:test/stand-in", "messages": [{"role": "user", "content": "Hello"}]}
    async with served(tmp_path, Refusing()) as (client, _):
        gc.collect()
        gc.disable()
        try:
            for route, body in (("/v1/inference", GOOD), ("/v1/chat/completions", chat)):
                assert (await client.post(route, json=body)).status_code == 400
                kept = [one for one in gc.get_objects() if isinstance(one, Request)]
                assert not [one for one in kept if one.request_id in asked]
        finally:
            gc.enable()
