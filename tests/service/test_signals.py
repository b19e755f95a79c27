"""What signals do to a worker process."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from processes import STAND_IN, WorkerProcess, started
from stand_in import stand_in_artifact

from rbee_bench.hive_stand_in import Hive

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


@asynccontextmanager
async def streaming(hive: Hive) -> AsyncIterator[tuple[httpx.AsyncClient, AsyncIterator[bytes]]]:
    """A client of the worker, and a completion that has begun and never ends by itself."""
    async with (
        httpx.AsyncClient(base_url=await ready_url(hive), timeout=10) as client,
        client.stream("POST", "/v1/inference", json=GOOD) as answer,
    ):
        chunks = answer.aiter_raw()
        read = b""
        while b'"output"' not in read:
            read += await anext(chunks)
        yield client, chunks


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_drains(tmp_path: Path, hive: Hive, number: signal.Signals) -> None:
    with started(STAND_IN, *flags(tmp_path, hive, "--grace", "0.5")) as worker:
        async with streaming(hive) as (_, chunks):
            worker.send(number)
            read = b"".join([chunk async for chunk in chunks])
        assert b'"stop_reason":"CANCELLED"' in read
        assert read.endswith(b"data: [DONE]\n\n")
        assert await asyncio.to_thread(worker.exit_code) == 0
        beats = hive.received(BEAT)
        assert beats[-1].body["worker"]["status"] == "stopped"
        assert "Traceback" not in worker.said()


async def test_the_second_signal_stops_at_once(tmp_path: Path, hive: Hive) -> None:
    with started(STAND_IN, *flags(tmp_path, hive, "--grace", "3600")) as worker:
        async with streaming(hive) as (client, chunks):
            worker.send(signal.SIGTERM)
            # The first signal has been heard once the worker is no longer ready.
            while (await client.get("/v1/ready")).json()["ready"]:
                pass
            insisting = asyncio.create_task(insist(worker))
            with pytest.raises(httpx.RemoteProtocolError):
                _ = [chunk async for chunk in chunks]
            insisting.cancel()
        assert await asyncio.to_thread(worker.exit_code) == 128 + signal.SIGTERM


async def test_two_at_once_are_one(tmp_path: Path, hive: Hive) -> None:
    """As ``timeout`` sends them."""
    with started(STAND_IN, *flags(tmp_path, hive, "--grace", "0.5")) as worker:
        async with streaming(hive) as (_, chunks):
            worker.send(signal.SIGTERM)
            worker.send(signal.SIGTERM)
            read = b"".join([chunk async for chunk in chunks])
        assert read.endswith(b"data: [DONE]\n\n")
        assert await asyncio.to_thread(worker.exit_code) == 0


async def insist(worker: WorkerProcess) -> None:
    """Tell it again and again: a second signal that comes soon is taken for the first."""
    while True:
        worker.send(signal.SIGTERM)
        await asyncio.sleep(0.05)


async def until_said(worker: WorkerProcess, what: str, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while worker.said().count(what) < count:
            await asyncio.sleep(0.02)


async def test_a_hangup_reads_the_token_again(tmp_path: Path, hive: Hive) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the-first-token\n")
    more = ["--api-token-file", str(secret), "--host", "127.0.0.1"]
    with started(STAND_IN, *flags(tmp_path, hive, *more, "--heartbeat-interval", "0.2")) as worker:
        url = await ready_url(hive)
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:

            async def status(token: str) -> int:
                bearer = {"authorization": f"Bearer {token}"}
                return (await client.get("/v1/ready", headers=bearer)).status_code

            assert await status("the-first-token") == 200
            secret.write_text("the-second-token\n")
            assert await status("the-first-token") == 200
            worker.send(signal.SIGHUP)
            await until_said(worker, "Read the token again")
            assert await status("the-second-token") == 200
            assert await status("the-first-token") == 401
            for number, wrong in enumerate(("", "two words", "x" * 5000), 1):
                secret.write_text(wrong)
                worker.send(signal.SIGHUP)
                await until_said(worker, "Kept the token", number)
            secret.unlink()
            worker.send(signal.SIGHUP)
            await until_said(worker, "Kept the token", 4)
            assert await status("the-second-token") == 200
        count = len(hive.received(BEAT))
        beats = await asyncio.to_thread(hive.wait_for, BEAT, count + 2)
        assert beats[0].authorization == "Bearer the-first-token"
        assert beats[-1].authorization == "Bearer the-second-token"
        assert not re.search("the-(first|second)-token|two words|xxx", worker.said())
        worker.send(signal.SIGTERM)
        assert await asyncio.to_thread(worker.exit_code) == 0


async def test_a_hangup_without_a_token_file_is_ignored(tmp_path: Path, hive: Hive) -> None:
    with started(STAND_IN, *flags(tmp_path, hive)) as worker:
        url = await ready_url(hive)
        worker.send(signal.SIGHUP)
        await until_said(worker, "Ignored SIGHUP")
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            assert (await client.get("/v1/ready")).json()["ready"]


async def test_a_signal_while_the_model_loads(tmp_path: Path, hive: Hive) -> None:
    with started((*STAND_IN, "--loads-forever"), *flags(tmp_path, hive)) as worker:
        await asyncio.to_thread(hive.wait_for, BEAT)
        worker.send(signal.SIGTERM)
        assert await asyncio.to_thread(worker.exit_code) == 0
        assert "Traceback" not in worker.said()
    assert hive.received(BEAT)[-1].body["worker"]["status"] == "stopped"
