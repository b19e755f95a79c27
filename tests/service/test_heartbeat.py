"""Heartbeats come on time, say the right thing, and survive any hive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from stand_in import Gate, StandInEngine, Status, opened, ready, running

from rbee_bench.hive_stand_in import LATE_SECONDS, SLOW_SECONDS, Answer, Hive
from rbee_service import heartbeat as module
from rbee_service.heartbeat import Heartbeat

OLD = "/v1/heartbeat"
NEW = "/v1/worker-heartbeat"


@pytest.fixture
def hive() -> Iterator[Hive]:
    with Hive() as hive:
        yield hive


@asynccontextmanager
async def beating(url: str, interval: float) -> AsyncIterator[Heartbeat]:
    async with httpx.AsyncClient() as client:
        heartbeat = Heartbeat(client, url, lambda: {"n": 1}, interval, lambda _: None)
        task = asyncio.create_task(heartbeat.run())
        try:
            yield heartbeat
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_on_schedule(hive: Hive) -> None:
    """The time a hive takes to answer does not add up: each beat is near its place."""
    hive.answer(OLD, ["slow"])
    async with beating(hive.url + OLD, 2 * SLOW_SECONDS):
        beats = await asyncio.to_thread(hive.wait_for, OLD, 7)
    for number, beat in enumerate(beats):
        assert beat.at - beats[0].at == pytest.approx(number * 2 * SLOW_SECONDS, abs=0.25)


@pytest.mark.parametrize("answer", [500, 404, 401, "drop", "hang"])
async def test_a_hive_that_is_not_well(
    hive: Hive, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.1)
    hive.answer(OLD, [answer, answer, 200])
    async with beating(hive.url + OLD, 0.05):
        await asyncio.to_thread(hive.wait_for, OLD, 4)


async def test_a_slow_hive_does_not_make_beats_pile_up(
    hive: Hive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.3)
    hive.answer(OLD, ["hang", 200])
    async with beating(hive.url + OLD, 0.1):
        beats = await asyncio.to_thread(hive.wait_for, OLD, 4)
    gaps = [later.at - earlier.at for earlier, later in pairwise(beats)]
    assert gaps[0] > 0.2  # the timeout counts from before the hive hears of it
    assert all(gap > 0.05 for gap in gaps)


async def test_news_does_not_wait(hive: Hive) -> None:
    async with beating(hive.url + OLD, 60) as heartbeat:
        await asyncio.to_thread(hive.wait_for, OLD, 1)
        heartbeat.hurry()
        await asyncio.to_thread(hive.wait_for, OLD, 2, 2.0)


async def test_a_newer_hive_follows_the_whole_life(tmp_path: Path, hive: Hive) -> None:
    with Hive() as queen:
        engine = StandInEngine()
        gate = Gate(engine)
        flags = ["--hive-url", hive.url + "/", "--queen-url", queen.url, "--worker-id", "w-1"]
        flags += ["--heartbeat-interval", "0.1", "--model-ref", "hf:a/b"]
        async with running(tmp_path, gate, *flags) as worker:
            [first, *_] = await asyncio.to_thread(hive.wait_for, NEW)
            assert first.body["worker"] == {
                "id": "w-1",
                "model_id": "hf:a/b",
                "device": "CPU-0",
                "port": worker.port,
                "status": "starting",
                "implementation": "onnx-worker-rbee",
                "version": "0.1.0",
            }
            stamp = datetime.fromisoformat(first.body["timestamp"])
            assert abs(datetime.now(UTC) - stamp) < timedelta(seconds=10)
            gate.open()
            await asyncio.to_thread(
                hive.wait_until, NEW, lambda body: body["worker"]["status"] == "ready"
            )
            engine.health = Status(slots_available=0)
            await asyncio.to_thread(
                queen.wait_until, NEW, lambda body: body["worker"]["status"] == "busy"
            )
        for listener in (hive, queen):
            statuses = [beat.body["worker"]["status"] for beat in listener.received(NEW)]
            assert statuses[-1] == "stopped"
            order = ["starting", "ready", "busy", "stopped"]
            assert statuses == sorted(statuses, key=order.index)


async def test_the_last_beat_is_the_last(tmp_path: Path, hive: Hive) -> None:
    """A beat on its way when the worker stops is heard before the one that says so."""
    hive.answer(NEW, ["late", 200])
    async with running(tmp_path, opened(StandInEngine()), "--hive-url", hive.url) as worker:
        await ready(worker)
        worker.worker.stop()
        await asyncio.wait_for(worker.life, 10)
        await asyncio.sleep(LATE_SECONDS)
    statuses = [beat.body["worker"]["status"] for beat in hive.received(NEW)]
    assert len(statuses) >= 2
    assert statuses[-1] == "stopped"


async def test_a_hive_that_hangs_is_not_waited_for_long(
    tmp_path: Path, hive: Hive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.2)
    hive.answer(NEW, ["hang"])
    async with running(tmp_path, opened(StandInEngine()), "--hive-url", hive.url) as worker:
        await asyncio.to_thread(hive.wait_for, NEW)
        worker.worker.stop()
        await asyncio.wait_for(worker.life, 10)
    assert hive.received(NEW)[-1].body["worker"]["status"] == "stopped"


async def test_ready_is_told_at_once(tmp_path: Path, hive: Hive) -> None:
    gate = Gate(StandInEngine())
    flags = ["--hive-url", hive.url, "--heartbeat-interval", "60"]
    async with running(tmp_path, gate, *flags):
        await asyncio.to_thread(hive.wait_for, NEW)
        gate.open()
        beats = await asyncio.to_thread(hive.wait_for, NEW, 2, 2.0)
    assert [beat.body["worker"]["status"] for beat in beats[:2]] == ["starting", "ready"]
    assert {beat.body["worker"]["model_id"] for beat in hive.received(NEW)} == {"hf:test/stand-in"}


async def test_an_older_hive_hears_after_it_took_the_worker(tmp_path: Path, hive: Hive) -> None:
    engine = StandInEngine()
    callback = hive.url + "/v1/workers/ready?from=test"
    flags = ["--callback-url", callback, "--worker-id", "w-2", "--heartbeat-interval", "0.1"]
    async with running(
        tmp_path,
        opened(engine),
        *flags,
        "--host",
        "127.0.0.1",
        environment={"LLORCH_API_TOKEN": "t0ken"},
    ) as worker:
        [report] = await asyncio.to_thread(hive.wait_for, "/v1/workers/ready?from=test")
        assert report.body["url"] == worker.url
        assert report.body["model_ref"] == "hf:test/stand-in"
        [first, *_] = await asyncio.to_thread(hive.wait_for, OLD, 2)
        assert first.at > report.at
        assert first.authorization == "Bearer t0ken"
        assert list(first.body) == ["worker_id", "timestamp", "health_status"]
        assert first.body["worker_id"] == "w-2"
        assert first.body["health_status"] == "healthy"
        engine.health = Status(healthy=False)
        await asyncio.to_thread(
            hive.wait_until, OLD, lambda body: body["health_status"] == "degraded"
        )


async def test_not_delayed_by_inference(
    tmp_path: Path, hive: Hive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty streams that never end and a hive that hangs on one endpoint delay nothing."""
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 1.0)
    engine = StandInEngine(lambda _: [])
    with Hive() as queen:
        queen.answer(NEW, ["hang"])
        flags = ["--hive-url", hive.url, "--queen-url", queen.url, "--heartbeat-interval", "0.2"]
        async with (
            running(tmp_path, opened(engine), *flags) as worker,
            httpx.AsyncClient(base_url=worker.url) as client,
        ):
            await ready(worker)
            body = {"job_id": "j", "prompt": "p", "max_tokens": 4}
            asking = [
                asyncio.create_task(client.post("/v1/inference", json=body)) for _ in range(30)
            ]
            await engine.wait(lambda: engine.live == 30)
            before = len(hive.received(NEW))
            beats = (await asyncio.to_thread(hive.wait_for, NEW, before + 5))[before:]
            gaps = [b.at - a.at for a, b in pairwise(beats)]
            assert max(gaps) < 1.0
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
