"""The ready callback against a hive that is not always well."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest

from rbee_bench.hive_stand_in import Answer, Hive
from rbee_service.callback import CallbackRefused, ReadyReport, report_ready

PATH = "/v1/workers/ready"
REPORT = ReadyReport("w-1", "http://127.0.0.1:8085", "hf:org/name", "cpu", 0, 536870912, 8085)


@pytest.fixture
def hive() -> Iterator[Hive]:
    with Hive() as hive:
        yield hive


async def report(url: str, max_retries: int = 3, first_wait: float = 0.01) -> None:
    async with httpx.AsyncClient(headers={"authorization": "Bearer t"}) as client:
        await report_ready(
            client,
            url,
            REPORT,
            max_retries=max_retries,
            count=lambda _: None,
            attempt_seconds=0.3,
            first_wait_seconds=first_wait,
        )


async def test_what_is_reported(hive: Hive) -> None:
    await report(hive.url + PATH)
    [received] = hive.received(PATH)
    assert received.body == {
        "worker_id": "w-1",
        "url": "http://127.0.0.1:8085",
        "model_ref": "hf:org/name",
        "backend": "cpu",
        "device": 0,
        "vram_bytes": 536870912,
        "port": 8085,
    }
    assert received.authorization == "Bearer t"


@pytest.mark.parametrize(
    "script",
    [
        [200],
        [204],
        [500, 500, 200],
        [408, 429, 503, 200],
        ["drop", 200],
        ["hang", 200],
        ["hang", "drop", 502, 201],
    ],
)
async def test_tried_until_taken(hive: Hive, script: list[Answer]) -> None:
    hive.answer(PATH, script)
    await report(hive.url + PATH)
    assert len(hive.received(PATH)) == len(script)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 301, 307])
async def test_an_answer_that_will_not_change_is_final(hive: Hive, status: int) -> None:
    hive.answer(PATH, [status])
    with pytest.raises(CallbackRefused, match=f"status {status}"):
        await report(hive.url + PATH)
    assert len(hive.received(PATH)) == 1


@pytest.mark.parametrize("answer", [500, "hang", "drop"])
@pytest.mark.parametrize("max_retries", [0, 2])
async def test_given_up_after_the_last_try(hive: Hive, answer: Answer, max_retries: int) -> None:
    hive.answer(PATH, [answer])
    with pytest.raises(CallbackRefused) as caught:
        await report(hive.url + PATH, max_retries)
    assert len(hive.received(PATH)) == max_retries + 1
    assert "\n" not in str(caught.value)
    assert "--callback-url" in str(caught.value)
    assert re.search(
        "failed: (status 500|no answer in time|Server disconnected .*|the connection broke); ",
        str(caught.value),
    )


async def test_a_connection_that_breaks(hive: Hive) -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(broken)) as client:
        with pytest.raises(CallbackRefused, match="failed: the connection broke; check"):
            await report_ready(
                client, hive.url, REPORT, max_retries=0, count=lambda _: None, attempt_seconds=1
            )


async def test_nobody_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(CallbackRefused):
            await report(f"http://127.0.0.1:{unused.getsockname()[1]}/ready", 1)


async def test_pauses_double(hive: Hive) -> None:
    hive.answer(PATH, [500])
    with pytest.raises(CallbackRefused):
        await report(hive.url + PATH, 3, first_wait=0.1)
    times = [received.at for received in hive.received(PATH)]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    for pause, planned in zip(pauses, (0.1, 0.2, 0.4), strict=True):
        assert planned <= pause < planned + 0.5


async def test_cancelled_at_once(hive: Hive) -> None:
    hive.answer(PATH, [500])
    reporting = asyncio.create_task(report(hive.url + PATH, 3, first_wait=60))
    await asyncio.to_thread(hive.wait_for, PATH)
    reporting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(reporting, 1)
