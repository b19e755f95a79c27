"""What Prometheus reads of a worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from stand_in import (
    Gate,
    StandInEngine,
    Status,
    endless,
    finished,
    opened,
    running,
    served,
    text,
)

from rbee_bench.hive_stand_in import Hive
from rbee_runtime.errors import OutOfMemory, QueueFull
from rbee_runtime.events import Event, Failed, Piece, Started, StopReason
from rbee_runtime.request import Request
from rbee_service.completion_meter import CompletionMeter
from rbee_service.metered import MeteredBackend
from rbee_service.metrics import Metrics

GOOD = {"job_id": "job-1", "prompt": "SECRET-PROMPT", "max_tokens": 16}

Samples = dict[tuple[str, ...], float]


def samples(exposition: str) -> Samples:
    """Return each sample by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


async def read(client: httpx.AsyncClient) -> Samples:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(answer.text)


async def test_before_there_is_a_model(tmp_path: Path) -> None:
    async with (
        running(tmp_path, Gate(StandInEngine())) as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        found = await read(client)
    assert found["rbee_generated_tokens_total",] == 0
    assert ("rbee_slots",) not in found


async def test_what_one_inference_leaves(tmp_path: Path) -> None:
    engine = StandInEngine(lambda _: text("a", "b", "c"))
    async with served(tmp_path, engine) as (client, _):
        await client.post("/v1/inference", json=GOOD)
        found = await read(client)
    assert found["rbee_inferences_total", "EOS"] == 1
    assert found["rbee_prompt_tokens_total",] == 3
    assert found["rbee_reused_tokens_total",] == 0
    assert found["rbee_generated_tokens_total",] == 3
    assert found["rbee_time_to_first_token_seconds_count",] == 1
    assert found["rbee_inter_token_seconds_count",] == 2
    assert found["rbee_inference_seconds_count",] == 1


async def test_gauges_are_of_the_moment(tmp_path: Path) -> None:
    engine = StandInEngine(health=Status(slots_total=4, slots_available=1, queued=7))
    async with served(tmp_path, engine) as (client, _):
        busy = await read(client)
        engine.health = Status(slots_total=4, slots_available=4, healthy=False)
        broken = await read(client)
    names = ("rbee_slots", "rbee_slots_available", "rbee_queued", "rbee_healthy")
    assert [busy[name,] for name in names] == [4, 1, 7, 1]
    assert [broken[name,] for name in names] == [4, 4, 0, 0]
    assert busy["rbee_memory_bytes",] == 536870912
    assert busy["rbee_weights_bytes",] == 400000000
    assert busy["rbee_cache_bytes",] == 1000000
    assert busy["rbee_cache_reserved_bytes",] == 2000000
    assert busy["rbee_workspace_bytes",] == 135870912


async def test_requests_by_route_and_status(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        for _ in range(2):
            await client.post("/v1/inference", json=GOOD)
        await client.post("/v1/inference", json={})
        created = await client.post("/v1/jobs", json=GOOD | {"operation": "infer"})
        await client.get(created.json()["sse_url"])
        await client.get(created.json()["sse_url"])
        for number in range(50):
            await client.get(f"/nowhere/{number}")
        await client.get("/v1/inference")
        found = await read(client)
    counted = {k[1:]: v for k, v in found.items() if k[0] == "rbee_http_requests_total"}
    assert counted.pop(("/v1/ready", "200"), 0) == 0
    assert counted.pop(("/v1/loading/progress", "200"), 0) <= 1
    counted.pop(("/v1/loading/progress", "503"), None)
    assert counted == {
        ("/v1/inference", "200"): 2,
        ("/v1/inference", "400"): 1,
        ("/v1/jobs", "200"): 1,
        ("/v1/jobs/<job_id:str>/stream", "200"): 1,
        ("/v1/jobs/<job_id:str>/stream", "404"): 1,
        ("none", "404"): 50,
        ("none", "405"): 1,
    }


async def test_inferences_by_outcome(tmp_path: Path) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        for reason in (StopReason.EOS, StopReason.MAX_TOKENS, StopReason.STOP_SEQUENCE):
            engine.answer = lambda _, r=reason: [Started(3, 7), Piece("x", 1), finished(r, 1)]
            await client.post("/v1/inference", json=GOOD)
        engine.answer = lambda _: [Started(3, 7), Failed(OutOfMemory("no memory"))]
        await client.post("/v1/inference", json=GOOD)
        engine.answer = endless
        reading = asyncio.create_task(client.post("/v1/inference", json=GOOD))
        await engine.wait(lambda: engine.live == 1)
        engine.cancel(engine.submitted[-1].request_id)
        await reading
        engine.refusal = QueueFull("the queue is full")
        await client.post("/v1/inference", json=GOOD)
        found = await read(client)
    counted = {k[1]: v for k, v in found.items() if k[0] == "rbee_inferences_total"}
    assert counted == {
        "EOS": 1,
        "MAX_TOKENS": 1,
        "STOP_SEQUENCE": 1,
        "VRAM_OOM": 1,
        "CANCELLED": 1,
        "REFUSED": 1,
    }


async def test_callbacks_and_heartbeats(tmp_path: Path) -> None:
    with Hive() as hive:
        hive.answer("/ready", [500, 200])
        hive.answer("/v1/worker-heartbeat", [401])
        flags = ("--callback-url", f"{hive.url}/ready", "--hive-url", hive.url)
        async with (
            running(tmp_path, opened(StandInEngine()), *flags) as worker,
            httpx.AsyncClient(base_url=worker.url, timeout=10) as client,
        ):
            # The first of these follows the callback.
            await asyncio.to_thread(hive.wait_for, "/v1/heartbeat")
            found = await read(client)
    assert found["rbee_callbacks_total", "failed"] == 1
    assert found["rbee_callbacks_total", "ok"] == 1
    assert found["rbee_heartbeats_total", "refused"] >= 1


async def test_nothing_of_the_client_is_in_it(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret-token")
    flags = ("--api-token-file", str(secret), "--host", "127.0.0.1")
    async with (
        running(tmp_path, opened(StandInEngine()), *flags) as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        bearer = {"authorization": "Bearer s3cret-token"}
        await client.post("/v1/inference", json=GOOD, headers=bearer)
        await client.post("/v1/SECRET-PROMPT", json=GOOD)
        told = (await client.get("/metrics")).text
    assert "SECRET-PROMPT" not in told
    assert "s3cret-token" not in told
    assert "job-1" not in told


async def test_two_workers_count_apart(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with (
        served(tmp_path, StandInEngine(), "--worker-id", "one") as (client, _),
        served(tmp_path / "other", StandInEngine(), "--worker-id", "two") as (other, _),
    ):
        await client.post("/v1/inference", json=GOOD)
        assert (await read(client))["rbee_inferences_total", "EOS"] == 1
        assert ("rbee_inferences_total", "EOS") not in await read(other)


def test_times_are_those_of_the_backend() -> None:
    now = 100.0
    events: list[Event] = []
    engine = StandInEngine(lambda _: [])
    metrics = Metrics()
    metered = MeteredBackend(engine, CompletionMeter, metrics, lambda: now)
    request = Request("r", "Hello", 4)
    metered.submit(request, events.append)
    told = [(1.0, Started(3, 7)), (2.0, Piece("a", 1)), (0.5, Piece("b", 2)), (1.0, finished())]
    for after, event in told:
        now += after
        engine.tell("r", event)
    assert events == [event for _, event in told]
    found = samples(metrics.text().decode())
    assert found["rbee_time_to_first_token_seconds_sum",] == 3.0
    assert found["rbee_inter_token_seconds_sum",] == 0.5
    assert found["rbee_inference_seconds_sum",] == 4.5
