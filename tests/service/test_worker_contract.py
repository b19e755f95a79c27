"""``/info`` and ``/v1/infer``, as the newer hive asks for them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from stand_in import (
    Gate,
    StandInEngine,
    Status,
    endless,
    ready,
    running,
    served,
    text,
)

from rbee_runtime.errors import (
    ContextOverflow,
    DeadlineExceeded,
    InferenceFailed,
    OutOfMemory,
    RuntimeFault,
)
from rbee_runtime.events import Failed, Piece, Started
from rbee_service import __version__


async def test_info_over_a_workers_life(tmp_path: Path) -> None:
    engine = StandInEngine()
    gate = Gate(engine)
    async with (
        running(tmp_path, gate, "--worker-id", "w-1") as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        loading = await client.get("/info")
        assert loading.json()["status"] == "starting"
        gate.open()
        await ready(worker)
        assert (await client.get("/info")).content == (
            b'{"id":"w-1","model_id":"hf:test/stand-in","device":"CPU-0","port":%d,'
            b'"status":"ready","implementation":"onnx-worker-rbee","version":"%s"}'
            % (worker.port, __version__.encode())
        )
        engine.health = Status(slots_total=1, slots_available=0)
        assert (await client.get("/info")).json()["status"] == "busy"


async def test_an_answer_as_a_whole(tmp_path: Path) -> None:
    engine = StandInEngine(lambda _: text("Hél", "lo 🐝"))
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post("/v1/infer", json={"prompt": "Hi"})
        await client.post("/v1/infer", json={"prompt": "Hi", "max_tokens": 9, "temperature": 0})
    assert answer.status_code == 200
    shape = r'\{"text":"Héllo 🐝","tokens_generated":2,"duration_ms":\d+\}'
    assert re.fullmatch(shape, answer.content.decode())
    first, second = engine.submitted
    assert (first.max_tokens, first.sampling.temperature) == (None, 1.0)
    assert (second.max_tokens, second.sampling.temperature) == (9, 0.0)


async def test_an_answer_as_it_comes(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine(lambda _: text("Hél", "lo 🐝\n"))) as (client, _):
        answer = await client.post("/v1/infer", json={"prompt": "Hi", "stream": True})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.content.decode() == (
        'data: {"token":"Hél"}\n\ndata: {"token":"lo 🐝\\n"}\n\ndata: [DONE]\n\n'
    )


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (OutOfMemory("no memory"), 507, "INSUFFICIENT_VRAM"),
        (DeadlineExceeded("too late"), 408, "INFERENCE_TIMEOUT"),
        (InferenceFailed("it failed"), 500, "INTERNAL"),
    ],
)
async def test_a_failure_in_the_middle(
    tmp_path: Path, fault: RuntimeFault, status: int, code: str
) -> None:
    engine = StandInEngine(lambda _: [Started(3, 7), Piece("x", 1), Failed(fault)])
    async with served(tmp_path, engine) as (client, _):
        whole = await client.post("/v1/infer", json={"prompt": "Hi"})
        stream = await client.post("/v1/infer", json={"prompt": "Hi", "stream": True})
    assert whole.status_code == status
    assert whole.json()["code"] == code
    assert whole.json()["message"] == str(fault)
    assert stream.text == (
        f'data: {{"token":"x"}}\n\ndata: {{"error":"{fault}"}}\n\ndata: [DONE]\n\n'
    )


async def test_an_answer_that_was_cancelled(tmp_path: Path) -> None:
    engine = StandInEngine(endless)
    async with served(tmp_path, engine) as (client, _):
        asking = asyncio.create_task(client.post("/v1/infer", json={"prompt": "Hi"}))
        await engine.wait(lambda: engine.live == 1)
        engine.cancel(engine.submitted[0].request_id)
        answer = await asking
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"


async def test_a_client_that_does_not_wait_for_the_whole(tmp_path: Path) -> None:
    engine = StandInEngine(endless)
    async with served(tmp_path, engine) as (_, worker):
        _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        body = b'{"prompt":"Hi"}'
        head = b"POST /v1/infer HTTP/1.1\r\nHost: worker\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        await engine.wait(lambda: engine.live == 1)
        writer.close()
        await writer.wait_closed()
        await engine.wait(lambda: engine.live == 0 and len(engine.cancelled) == 1)


async def test_refusals(tmp_path: Path) -> None:
    engine = StandInEngine(refusal=ContextOverflow(3000, 1, 2048))
    async with served(tmp_path, engine) as (client, _):
        bad = await client.post("/v1/infer", json={"max_tokens": 0, "stream": 1})
        long = await client.post("/v1/infer", json={"prompt": "Hi"})
    assert [fault["field"] for fault in bad.json()["errors"]] == ["prompt", "max_tokens", "stream"]
    assert (bad.status_code, long.status_code) == (400, 400)
    assert "3000" in long.json()["errors"][0]["message"]


async def test_a_worker_that_still_loads(tmp_path: Path) -> None:
    async with (
        running(tmp_path, Gate(StandInEngine())) as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        for path in ("/v1/infer", "/v1/jobs"):
            answer = await client.post(path, json={"prompt": "Hi"})
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
