"""Coming up and going down, within one process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from stand_in import Gate, StandInEngine, Status, finished, opened, ready, running

from rbee_bench.hive_stand_in import Hive
from rbee_runtime.artifact.cache import unless_in_use
from rbee_runtime.errors import (
    ArtifactError,
    DeviceError,
    EngineClosed,
    InvalidSetting,
    OutOfMemory,
)
from rbee_runtime.events import Event, Piece, Started
from rbee_runtime.events import Failed as EngineFailed
from rbee_runtime.request import Request
from rbee_service import worker as worker_module
from rbee_service.exit_codes import ExitCode, WorkerFault

GOOD = {"job_id": "j", "prompt": "p", "max_tokens": 4}


def endless(_: Request) -> Iterator[Event]:
    yield Started(3, 7)
    yield Piece("x", 1)


def last_event(stream: bytes) -> dict[str, object]:
    *_, last, done, rest = stream.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    event = json.loads(last.removeprefix(b"data: "))
    assert isinstance(event, dict)
    return event


async def test_a_running_stream_finishes_within_the_grace_period(tmp_path: Path) -> None:
    engine = StandInEngine(endless)
    async with (
        running(tmp_path, opened(engine), "--grace", "10") as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        await ready(worker)
        asking = asyncio.create_task(client.post("/v1/inference", json=GOOD))
        await engine.wait(lambda: engine.live == 1)
        worker.worker.stop()
        refused = await client.post("/v1/inference", json=GOOD)
        assert refused.status_code == 503
        assert refused.json()["code"] == "INSUFFICIENT_RESOURCES"
        assert "retry-after" in refused.headers
        assert (await client.get("/health")).status_code == 200
        engine.tell(engine.submitted[0].request_id, finished())
        assert last_event((await asking).content)["stop_reason"] == "EOS"
        await asyncio.wait_for(worker.life, 5)
    assert engine.closed
    assert not engine.cancelled


async def test_what_outlasts_the_grace_period_is_cancelled(tmp_path: Path) -> None:
    engine = StandInEngine(endless)
    async with (
        running(tmp_path, opened(engine), "--grace", "0.1") as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        await ready(worker)
        asking = [asyncio.create_task(client.post("/v1/inference", json=GOOD)) for _ in range(3)]
        await engine.wait(lambda: engine.live == 3)
        worker.worker.stop()
        for answer in await asyncio.gather(*asking):
            assert last_event(answer.content)["stop_reason"] == "CANCELLED"
        await asyncio.wait_for(worker.life, 5)
    assert len(engine.cancelled) == 3


async def test_stopped_while_the_model_loads(tmp_path: Path) -> None:
    gate = Gate(StandInEngine())
    async with (
        running(tmp_path, gate) as worker,
        httpx.AsyncClient(base_url=worker.url, timeout=10) as client,
        client.stream("GET", "/v1/loading/progress") as answer,
    ):
        chunks = answer.aiter_raw()
        await anext(chunks)
        worker.worker.stop()
        assert b"".join([chunk async for chunk in chunks]) == b"data: [DONE]\n\n"
        await asyncio.wait_for(worker.life, 5)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ArtifactError("artifact: broken"), ExitCode.MODEL_UNUSABLE),
        (OutOfMemory("too large"), ExitCode.MODEL_UNUSABLE),
        (ZeroDivisionError("a bug"), ExitCode.MODEL_UNUSABLE),
        (DeviceError("no such device"), ExitCode.DEVICE_UNUSABLE),
        (InvalidSetting("the context length must be less"), ExitCode.BAD_ARGUMENTS),
    ],
)
async def test_a_model_that_does_not_load(
    tmp_path: Path, failure: Exception, code: ExitCode
) -> None:
    gate = Gate(StandInEngine(), failure)
    gate.open()
    async with running(tmp_path, gate) as worker:
        with pytest.raises(WorkerFault) as caught:
            await asyncio.wait_for(worker.life, 5)
    assert caught.value.code is code
    assert str(failure) in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_its_artifact_cannot_be_cleared_away_while_it_lives(tmp_path: Path) -> None:
    async with running(tmp_path, opened(StandInEngine())) as worker:
        await ready(worker)
        with unless_in_use(tmp_path / "artifact") as free:
            assert not free
        worker.worker.stop()
        await asyncio.wait_for(worker.life, 5)
    with unless_in_use(tmp_path / "artifact") as free:
        assert free


async def test_a_hive_that_refuses(tmp_path: Path) -> None:
    with Hive() as hive:
        hive.answer("/ready", [403])
        engine = StandInEngine()
        flags = ["--callback-url", hive.url + "/ready", "--queen-url", hive.url]
        async with running(tmp_path, opened(engine), *flags) as worker:
            with pytest.raises(WorkerFault) as caught:
                await asyncio.wait_for(worker.life, 5)
        assert caught.value.code is ExitCode.CALLBACK_REFUSED
        beats = hive.received("/v1/worker-heartbeat")
        assert beats[-1].body["worker"]["status"] == "stopped"
        assert not hive.received("/v1/heartbeat")
        assert engine.closed


async def test_the_hive_may_call_back_at_once(tmp_path: Path) -> None:
    """When the report arrives, the worker already answers at the address in it."""
    with Hive() as hive:
        engine = StandInEngine()
        async with running(tmp_path, opened(engine), "--callback-url", hive.url + "/ready"):
            [report] = await asyncio.to_thread(hive.wait_for, "/ready")
            async with httpx.AsyncClient(base_url=report.body["url"]) as client:
                assert (await client.get("/v1/ready")).json()["ready"] is True
                answer = await client.post("/v1/inference", json=GOOD)
            assert answer.status_code == 200


async def test_an_engine_that_dies_takes_the_worker_with_it(tmp_path: Path) -> None:
    with Hive() as hive:
        engine = StandInEngine(endless)
        flags = ["--callback-url", hive.url + "/ready", "--queen-url", hive.url, "--grace", "3600"]
        async with (
            running(tmp_path, opened(engine), *flags) as worker,
            httpx.AsyncClient(base_url=worker.url) as client,
        ):
            await asyncio.to_thread(hive.wait_for, "/v1/heartbeat")
            asking = asyncio.create_task(client.post("/v1/inference", json=GOOD))
            await engine.wait(lambda: engine.live == 1)
            fault = "the engine stopped: ValueError: two\nlines"
            engine.health = Status(healthy=False, fault=fault)
            engine.refusal = EngineClosed(fault)
            engine.tell(engine.submitted[0].request_id, EngineFailed(EngineClosed(fault)))
            assert last_event((await asking).content)["code"] == "INFERENCE_FAILED"
            health = await client.get("/health")
            assert health.status_code == 503
            assert health.json()["status"] == "unhealthy"
            refused = await client.post("/v1/inference", json=GOOD)
            assert refused.status_code == 503
            assert refused.json()["code"] == "WORKER_UNHEALTHY"
            with pytest.raises(WorkerFault) as caught:
                await asyncio.wait_for(worker.life, 5)
        assert caught.value.code is ExitCode.ENGINE_DIED
        assert "\n" not in str(caught.value)
        assert hive.received("/v1/worker-heartbeat")[-1].body["worker"]["status"] == "stopped"
        assert hive.received("/v1/heartbeat")[-1].body["health_status"] == "degraded"
    assert engine.closed


async def test_a_dead_engine_does_not_wait_for_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_LAST_WORDS_SECONDS", 0.05)
    engine = StandInEngine(endless)
    async with (
        running(tmp_path, opened(engine), "--grace", "3600") as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        await ready(worker)
        async with client.stream("POST", "/v1/inference", json=GOOD):
            await engine.wait(lambda: engine.live == 1)
            engine.health = Status(healthy=False)
            with pytest.raises(WorkerFault):
                await asyncio.wait_for(worker.life, 10)
