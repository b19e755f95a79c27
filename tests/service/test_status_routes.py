"""Health, readiness and loading progress, before, while and after the model loads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from stand_in import (
    Gate,
    StandInEngine,
    Status,
    endless,
    finished,
    opened,
    ready,
    running,
    served,
)

from rbee_bench.hive_stand_in import BEAT, Hive
from rbee_service.http.connection import Limits
from rbee_service.loading import LayerProgress, LoadingBoard
from rbee_service.sse import KEEP_ALIVE

GOOD = {"job_id": "j", "prompt": "p", "max_tokens": 4}


async def test_while_the_model_loads(tmp_path: Path) -> None:
    async with (
        running(tmp_path, Gate(StandInEngine())) as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        for path in ("/health", "/v1/health"):
            health = await client.get(path)
            assert health.status_code == 200
            assert health.content == b'{"status":"healthy","vram_bytes":0}'
            assert health.headers["content-type"] == "application/json"
        answer = await client.get("/v1/ready")
        assert answer.status_code == 200
        assert answer.content == (
            b'{"ready":false,"state":"loading","progress_url":"/v1/loading/progress"}'
        )
        refused = await client.post("/v1/inference", content=b"anything")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["code"] == "INSUFFICIENT_RESOURCES"


async def test_when_the_model_is_loaded(tmp_path: Path) -> None:
    engine = StandInEngine(health=Status(slots_total=4, slots_available=4))
    async with (
        running(tmp_path, opened(engine)) as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        await ready(worker)
        assert (await client.get("/health")).content == (
            b'{"status":"healthy","vram_bytes":536870912}'
        )
        assert (await client.get("/v1/ready")).content == (
            b'{"ready":true,"state":"idle","model_loaded":true,"slots_total":4,"slots_available":4}'
        )
        engine.health = Status(slots_total=4, slots_available=3)
        assert (await client.get("/v1/ready")).json()["state"] == "busy"
        progress = await client.get("/v1/loading/progress")
        assert progress.status_code == 503
        assert progress.json()["retriable"] is False


async def test_when_the_engine_has_died(tmp_path: Path) -> None:
    engine = StandInEngine(health=Status(healthy=False, fault="the device is lost"))
    async with (
        running(tmp_path, opened(engine)) as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        await ready(worker)
        health = await client.get("/health")
        assert health.status_code == 503
        assert health.content == b'{"status":"unhealthy","vram_bytes":536870912}'
        assert (await client.get("/v1/ready")).content == b'{"ready":false,"state":"error"}'


async def test_while_the_worker_stops(tmp_path: Path) -> None:
    """It takes no work and is not over yet, for a hive that reads any of the three."""
    engine = StandInEngine(endless, health=Status(slots_total=4, slots_available=3))
    with Hive() as hive:
        flags = ["--grace", "60", "--hive-url", hive.url, "--heartbeat-interval", "0.1"]
        async with (
            served(tmp_path, engine, *flags) as (client, worker),
            client.stream("POST", "/v1/inference", json=GOOD),
        ):
            await engine.wait(lambda: engine.live == 1)
            worker.worker.stop()
            assert (await client.get("/v1/ready")).content == (
                b'{"ready":false,"state":"busy","model_loaded":true,"slots_total":4,'
                b'"slots_available":0}'
            )
            assert (await client.get("/info")).json()["status"] == "busy"
            count = len(hive.received(BEAT))
            beats = await asyncio.to_thread(hive.wait_for, BEAT, count + 2)
            assert beats[-1].body["worker"]["status"] == "busy"
            engine.tell(engine.submitted[0].request_id, finished())
            await asyncio.wait_for(worker.life, 10)
        assert hive.received(BEAT)[-1].body["worker"]["status"] == "stopped"


async def test_loading_progress(tmp_path: Path) -> None:
    gate = Gate(StandInEngine())
    async with (
        running(tmp_path, gate) as worker,
        httpx.AsyncClient(base_url=worker.url, timeout=10) as client,
        client.stream("GET", "/v1/loading/progress") as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream"
        chunks = answer.aiter_raw()
        first = b'{"stage":"loading_to_vram","layers_loaded":0,"layers_total":0,"vram_mb":0}'
        assert await anext(chunks) == b"data: " + first + b"\n\n"
        await gate.show(LayerProgress(12, 32, 2048 << 20))
        assert await anext(chunks) == (
            b'data: {"stage":"loading_to_vram","layers_loaded":12,"layers_total":32,'
            b'"vram_mb":2048}\n\n'
        )
        gate.open()
        rest = b"".join([chunk async for chunk in chunks])
        assert rest == b'data: {"stage":"ready"}\n\ndata: [DONE]\n\n'


async def test_progress_of_a_model_that_does_not_load(tmp_path: Path) -> None:
    gate = Gate(StandInEngine(), failure=RuntimeError("broken"))
    async with (
        running(tmp_path, gate) as worker,
        httpx.AsyncClient(base_url=worker.url, timeout=10) as client,
        client.stream("GET", "/v1/loading/progress") as answer,
    ):
        chunks = answer.aiter_raw()
        await anext(chunks)
        gate.open()
        assert b"".join([chunk async for chunk in chunks]) == b"data: [DONE]\n\n"


async def test_a_watcher_hears_when_there_is_no_news(tmp_path: Path) -> None:
    limits = Limits(silence_seconds=0.01)
    async with (
        running(tmp_path, Gate(StandInEngine()), limits=limits) as worker,
        httpx.AsyncClient(base_url=worker.url, timeout=10) as client,
        client.stream("GET", "/v1/loading/progress") as answer,
    ):
        chunks = answer.aiter_raw()
        assert (await anext(chunks)).startswith(b'data: {"stage":"loading_to_vram"')
        assert await anext(chunks) == KEEP_ALIVE
        assert await anext(chunks) == KEEP_ALIVE


async def test_every_watcher_sees_the_last_progress() -> None:
    board = LoadingBoard()

    async def last() -> LayerProgress | None:
        seen = None
        async for progress in board.watch():
            seen = progress
            if progress.layers_loaded == 50:
                return progress
        return seen

    watchers = [asyncio.create_task(last()) for _ in range(5)]
    for layer in range(51):
        board.post(LayerProgress(layer, 50, layer))
        await asyncio.sleep(0)
    assert await asyncio.gather(*watchers) == [LayerProgress(50, 50, 50)] * 5


@pytest.mark.parametrize("path", ["/health", "/v1/nowhere", "/v1/loading/progress"])
async def test_no_header_is_empty(tmp_path: Path, path: str) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        answer = await client.get(path)
    assert all(answer.headers.values())
    assert "alt-svc" not in answer.headers


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/metrics", "/docs"])
async def test_a_probe_may_ask_for_the_head_alone(tmp_path: Path, path: str) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        whole, head = await client.get(path), await client.head(path)
        again = await client.get(path)
        engine.health = Status(healthy=False)
        assert (await client.head("/health")).status_code == 503
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert head.headers["content-length"] != "0"
    assert again.status_code == 200
