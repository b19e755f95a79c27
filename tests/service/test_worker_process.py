"""The real program with a real model and a hive that is not always well."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import REAL, run, started
from support.makers import MakeArtifact, MakeLlama

from rbee_bench.hive_stand_in import Hive, Received
from rbee_bench.local_process import free_port

READY = "/v1/workers/ready"
SECRET = "t0ken-of-the-test"
PROMPT = "a prompt nobody else may see"


@pytest.fixture
def hive() -> Iterator[Hive]:
    with Hive() as hive:
        yield hive


@pytest.fixture(scope="module")
def slow_artifact(make_llama: MakeLlama, make_artifact: MakeArtifact) -> Path:
    """A model that talks for seconds, so that who interrupts it is never too late."""
    wide = {"hidden_size": 256, "intermediate_size": 1024, "num_key_value_heads": 4}
    deep = {"num_hidden_layers": 16, "max_position_embeddings": 4096}
    return make_artifact(make_llama(**wide, **deep), "int8")


def job(**more: Any) -> dict[str, Any]:
    return {"job_id": "job-1", "prompt": PROMPT, "max_tokens": 16, "seed": 1} | more


def events(stream: bytes) -> list[dict[str, Any]]:
    *lines, rest = stream.split(b"\n\n")
    assert rest == b""
    assert lines.pop() == b"data: [DONE]"
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


async def reported(hive: Hive, count: int = 1) -> Received:
    return (await asyncio.to_thread(hive.wait_for, READY, count, 30.0))[-1]


async def test_the_whole_life(tiny_artifact: Path, hive: Hive) -> None:
    hive.answer(READY, [500, 200])
    flags = ["--model", str(tiny_artifact), "--port", "0", "--host", "127.0.0.1"]
    flags += ["--callback-url", hive.url + READY, "--hive-url", hive.url, "--worker-id", "w-1"]
    flags += ["--heartbeat-interval", "0.5", "--model-ref", "hf:test/tiny", "--backend", "cpu"]
    environment = {"LLORCH_API_TOKEN": SECRET, "LLORCH_LOG_FORMAT": "json"}
    with started(REAL, *flags, environment=environment) as worker:
        report = await reported(hive, 2)
        assert report.authorization == f"Bearer {SECRET}"
        assert report.body["worker_id"] == "w-1"
        assert report.body["model_ref"] == "hf:test/tiny"
        assert report.body["backend"] == "cpu"
        assert report.body["vram_bytes"] > 0
        assert report.body["url"] == f"http://127.0.0.1:{report.body['port']}"
        await asyncio.to_thread(hive.wait_for, "/v1/heartbeat", 2)
        headers = {"Authorization": f"Bearer {SECRET}", "X-Correlation-ID": "c-1"}
        async with httpx.AsyncClient(base_url=report.body["url"], timeout=30) as client:
            assert (await client.get("/v1/ready")).status_code == 401
            assert (await client.get("/v1/ready", headers=headers)).json()["state"] == "idle"
            answers = [
                await client.post("/v1/inference", json=job(temperature=0.0), headers=headers)
                for _ in range(2)
            ]
            too_long = job(prompt="word " * 6000, max_tokens=2048)
            refused = await client.post("/v1/inference", json=too_long, headers=headers)
        first, second = ([e for e in events(a.content) if e["type"] == "output"] for a in answers)
        assert first == second
        end = events(answers[0].content)[-1]
        assert end["type"] == "end"
        assert end["items_out"] <= 16
        assert refused.status_code == 400
        [fault] = refused.json()["errors"]
        assert fault["constraint"].startswith("context_length(")
        worker.send(signal.SIGTERM)
        assert await asyncio.to_thread(worker.exit_code) == 0
        lines = [json.loads(line) for line in worker.said().splitlines()]
    statuses = [beat.body["worker"]["status"] for beat in hive.received("/v1/worker-heartbeat")]
    assert (statuses[0], statuses[-1]) == ("starting", "stopped")
    assert "ready" in statuses
    served = [line for line in lines if line.get("job_id") == "job-1"]
    assert served
    assert {line["correlation_id"] for line in served} == {"c-1"}
    log = json.dumps(lines)
    assert SECRET not in log
    assert PROMPT not in log


async def test_killed_and_started_again(tiny_artifact: Path, hive: Hive) -> None:
    port = free_port()
    flags = ["--model", str(tiny_artifact), "--port", str(port)]
    flags += ["--callback-url", hive.url + READY]
    with started(REAL, *flags) as first:
        url = (await reported(hive)).body["url"]
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            # A connection that is open when the worker dies keeps the port half taken.
            assert (await client.get("/health")).status_code == 200
            first.send(signal.SIGKILL)
            await asyncio.to_thread(first.exit_code)
            with started(REAL, *flags) as second:
                assert (await reported(hive, 2)).body["port"] == port
                answer = await client.post("/v1/inference", json=job())
                assert events(answer.content)[-1]["type"] == "end"
                assert second.process.poll() is None


async def test_started_without_standard_streams(tiny_artifact: Path, hive: Hive) -> None:
    command = [*REAL, "--model", str(tiny_artifact), "--port", "0"]
    worker = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command, "--callback-url", hive.url + READY)
    )
    try:
        report = await reported(hive)
        async with httpx.AsyncClient(base_url=report.body["url"]) as client:
            answer = await client.post("/v1/inference", json=job())
            assert events(answer.content)[-1]["type"] == "end"
        streams = [Path(f"/proc/{worker.pid}/fd/{number}").readlink() for number in range(3)]
        assert streams == [Path("/dev/null")] * 3
        worker.terminate()
        assert await worker.wait() == 0
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()


async def test_a_client_that_goes_away_frees_the_slot(slow_artifact: Path, hive: Hive) -> None:
    flags = ["--model", str(slow_artifact), "--port", "0", "--callback-url", hive.url + READY]
    with started(REAL, *flags) as worker:
        url = (await reported(hive)).body["url"]
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            for _ in range(3):
                asked = job(max_tokens=2048)
                async with client.stream("POST", "/v1/inference", json=asked) as answer:
                    async for chunk in answer.aiter_raw():
                        if b'"output"' in chunk:
                            break
            async with asyncio.timeout(30):
                while (await client.get("/v1/ready")).json()["state"] != "idle":
                    pass
            answer = await client.post("/v1/inference", json=job())
            assert events(answer.content)[-1]["type"] == "end"
        assert worker.said().count("not read to its end") == 3


async def test_told_to_stop_in_the_middle(slow_artifact: Path, hive: Hive) -> None:
    flags = ["--model", str(slow_artifact), "--port", "0", "--callback-url", hive.url + READY]
    with started(REAL, *flags, "--grace", "0") as worker:
        url = (await reported(hive)).body["url"]
        asked = job(max_tokens=2048)
        async with (
            httpx.AsyncClient(base_url=url, timeout=30) as client,
            client.stream("POST", "/v1/inference", json=asked) as answer,
        ):
            read = b""
            async for chunk in answer.aiter_raw():
                if b'"output"' in chunk and b'"output"' not in read:
                    worker.send(signal.SIGTERM)
                read += chunk
        assert events(read)[-1]["stop_reason"] == "CANCELLED"
        assert await asyncio.to_thread(worker.exit_code) == 0
        assert "Traceback" not in worker.said()


async def test_a_checkpoint_is_exported_once(tiny_llama: Path, tmp_path: Path, hive: Hive) -> None:
    flags = ["--model", str(tiny_llama), "--port", "0", "--callback-url", hive.url + READY]
    environment = {"RBEE_ARTIFACT_CACHE": str(tmp_path)}
    made = []
    for count in (1, 2):
        with started(REAL, *flags, environment=environment) as worker:
            await reported(hive, count)
            worker.send(signal.SIGTERM)
            assert await asyncio.to_thread(worker.exit_code) == 0
        made.append([(file, file.stat().st_mtime_ns) for file in tmp_path.glob("*/*")])
    assert made[0]
    assert made[0] == made[1]


async def test_an_export_outlasts_the_worker_that_a_hive_stops(
    tiny_llama: Path, tmp_path: Path, hive: Hive
) -> None:
    flags = ["--model", str(tiny_llama), "--port", "0", "--callback-url", hive.url + READY]
    with started(REAL, *flags, environment={"RBEE_ARTIFACT_CACHE": str(tmp_path)}) as worker:
        async with asyncio.timeout(20):
            while "Exporting the model" not in worker.said():
                await asyncio.sleep(0.01)
        worker.send(signal.SIGTERM)
        assert await asyncio.to_thread(worker.exit_code) == 0
        assert "The export goes on" in worker.said()
        assert "Traceback" not in worker.said()
    async with asyncio.timeout(20):
        while not list(tmp_path.glob("*/artifact.json")):
            await asyncio.sleep(0.01)


def last_line(code: int, lines: list[str], expected: int) -> str:
    assert code == expected, lines
    assert lines
    assert not any("Traceback" in line for line in lines)
    complaints = [line for line in lines if line.startswith("rbee-worker: ")]
    assert complaints == lines[-1:]
    return complaints[0]


def test_bad_arguments() -> None:
    code, lines = run("--port", "x", "--backend", "y")
    assert code == 2
    assert len(lines) == 3
    assert all(line.startswith("rbee-worker: ") for line in lines)


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = last_line(*run("--model", "m", "--port", str(port)), expected=2)
    assert f"port {port}" in line


def test_a_log_format_that_there_is_not(tmp_path: Path) -> None:
    """It is the hive's variable, too: the worker starts all the same."""
    flags = ["--model", str(tmp_path / "none"), "--port", "0"]
    _, lines = run(*flags, environment={"LLORCH_LOG_FORMAT": "xml"})
    assert "LLORCH_LOG_FORMAT may be json or console, not 'xml'" in lines[0]
    _, lines = run(*flags, environment={"LLORCH_LOG_FORMAT": "console"})
    assert "LLORCH_LOG_FORMAT" not in lines[0]


def test_no_such_model(tmp_path: Path) -> None:
    line = last_line(*run("--model", str(tmp_path / "none"), "--port", "0"), expected=3)
    assert "no such file or directory" in line


@pytest.mark.parametrize("damage", ["truncated", "flipped", "newer", "no json"])
def test_a_damaged_artifact(tiny_artifact: Path, tmp_path: Path, damage: str) -> None:
    artifact = tmp_path / "artifact"
    shutil.copytree(tiny_artifact, artifact)
    manifest = json.loads((artifact / "artifact.json").read_text())
    [weights] = [f["path"] for f in manifest["files"] if f["role"] == "weights"]
    content = bytearray((artifact / weights).read_bytes())
    match damage:
        case "truncated":
            del content[-1:]
        case "flipped":
            content[len(content) // 2] ^= 1
        case "newer":
            manifest["format_version"] = 99
    (artifact / weights).write_bytes(content)
    (artifact / "artifact.json").write_text("{" if damage == "no json" else json.dumps(manifest))
    last_line(*run("--model", str(artifact), "--port", "0"), expected=3)


def test_a_broken_checkpoint(tmp_path: Path) -> None:
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF nonsense")
    cache = tmp_path / "cache"
    environment = {"RBEE_ARTIFACT_CACHE": str(cache)}
    line = last_line(
        *run("--model", str(model), "--port", "0", environment=environment), expected=3
    )
    assert "broken.gguf" in line
    assert "rbee-export" not in line
    assert not list(cache.glob("**/artifact.json"))


async def test_a_hive_that_refuses(tiny_artifact: Path, hive: Hive) -> None:
    hive.answer(READY, [403])
    flags = ["--model", str(tiny_artifact), "--port", "0", "--callback-url", hive.url + READY]
    code, lines = await asyncio.to_thread(run, *flags)
    assert "status 403" in last_line(code, lines, expected=4)
    assert len(hive.received(READY)) == 1


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there(tiny_artifact: Path) -> None:
    flags = ["--model", str(tiny_artifact), "--port", "0", "--backend", "cuda"]
    line = last_line(*run(*flags), expected=5)
    assert "compiled for cpu; export with --target cuda" in line
