"""What signals do to a worker process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hive import Hive
from processes import STAND_IN, started
from stand_in import stand_in_artifact

GOOD = {"job_id": "j", "prompt": "p", "max_tokens": 4}
BEAT = "/v1/worker-heartbeat"


@pytest.fixture
def hive() -> Iterator[Hive]:
    with Hive() as hive:
        yield hive


def flags(directory: Path, hive: Hive, *more: str) -> list[str]:
    artifact = str(stand_in_artifact(directory))
    return ["--model", artifact, "--port", "0", "--hive-url", hive.url, *more]


async def ready_url(hive: Hive) -> str:
    beat = await asyncio.to_thread(
        hive.wait_until, BEAT, lambda body: body["worker"]["status"] == "ready"
    )
    return f"http://127.0.0.1:{beat.body['worker']['port']}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_drains(tmp_path: Path, hive: Hive, number: signal.Signals) -> None:
    with started(STAND_IN, *flags(tmp_path, hive, "--grace", "0.5")) as worker:
        async with (
            httpx.AsyncClient(base_url=await ready_url(hive), timeout=10) as client,
            client.stream("POST", "/v1/inference", json=GOOD) as answer,
        ):
            chunks = answer.aiter_raw()
            read = b""
            while b'"output"' not in read:
                read += await anext(chunks)
            worker.send(number)
            async for chunk in chunks:
                read += chunk
        assert b'"stop_reason":"CANCELLED"' in read
        assert read.endswith(b"data: [DONE]\n\n")
        assert await asyncio.to_thread(worker.exit_code) == 0
        beats = hive.received(BEAT)
        assert beats[-1].body["worker"]["status"] == "stopped"
        assert "Traceback" not in worker.said()


async def test_the_second_signal_stops_at_once(tmp_path: Path, hive: Hive) -> None:
    with started(STAND_IN, *flags(tmp_path, hive, "--grace", "3600")) as worker:
        async with (
            httpx.AsyncClient(base_url=await ready_url(hive), timeout=10) as client,
            client.stream("POST", "/v1/inference", json=GOOD) as answer,
        ):
            chunks = answer.aiter_raw()
            await anext(chunks)
            worker.send(signal.SIGTERM)
            # The first signal has been heard once the worker is no longer ready.
            while (await client.get("/v1/ready")).json()["ready"]:
                pass
            worker.send(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                _ = [chunk async for chunk in chunks]
        assert await asyncio.to_thread(worker.exit_code) == 128 + signal.SIGTERM


async def test_a_signal_while_the_model_loads(tmp_path: Path, hive: Hive) -> None:
    with started((*STAND_IN, "--loads-forever"), *flags(tmp_path, hive)) as worker:
        await asyncio.to_thread(hive.wait_for, BEAT)
        worker.send(signal.SIGTERM)
        assert await asyncio.to_thread(worker.exit_code) == 0
        assert "Traceback" not in worker.said()
    assert hive.received(BEAT)[-1].body["worker"]["status"] == "stopped"
