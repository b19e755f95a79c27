"""The real program with real encoders: of random weights, and all-MiniLM-L6-v2."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from processes import REAL, run, started
from stand_in import bodies
from support.makers import MakeArtifact, MakeEncoder
from support.rerankers import HEAD
from support.tiny_encoders import CONTEXT

from rbee_bench.hive_stand_in import Hive, Received
from rbee_runtime import Embedder, Reranker

READY = "/v1/workers/ready"
SECRET = "t0ken-of-the-test"
PROMPT = "a prompt nobody else may see"
TEXTS = ["A bee", "A hive of bees, and what they say", "é 日本 🐝", "A bee"]


@pytest.fixture
def hive() -> Iterator[Hive]:
    with Hive() as hive:
        yield hive


@pytest.fixture(scope="module")
def checkpoint(make_encoder: MakeEncoder) -> Path:
    return make_encoder()


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, make_embedder: MakeArtifact) -> Path:
    return make_embedder(checkpoint)


async def reported(hive: Hive, count: int = 1) -> Received:
    return (await asyncio.to_thread(hive.wait_for, READY, count, 60.0))[-1]


def flags_for(model: Path, hive: Hive, *more: str) -> list[str]:
    base = ["--model", str(model), "--port", "0", "--host", "127.0.0.1", "--backend", "cpu"]
    return [*base, "--callback-url", hive.url + READY, *more]


def client_of(url: str, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


async def test_the_whole_life(artifact: Path, hive: Hive) -> None:
    more = ["--hive-url", hive.url, "--worker-id", "w-1", "--heartbeat-interval", "0.5"]
    environment = {"LLORCH_API_TOKEN": SECRET, "LLORCH_LOG_FORMAT": "json"}
    with started(REAL, *flags_for(artifact, hive, *more), environment=environment) as worker:
        report = (await reported(hive)).body
        assert (report["worker_id"], report["backend"]) == ("w-1", "cpu")
        assert report["vram_bytes"] > 0
        headers = {"Authorization": f"Bearer {SECRET}", "X-Correlation-ID": "c-1"}
        async with (
            httpx.AsyncClient(base_url=report["url"], headers=headers, timeout=30) as client,
            client_of(report["url"], SECRET) as typed,
        ):
            assert (await client.get("/v1/ready", headers={"Authorization": ""})).status_code == 401
            ready = (await client.get("/v1/ready")).json()
            assert (ready["state"], ready["slots_available"]) == ("idle", ready["slots_total"])
            asked = {"job_id": "job-1", "prompt": PROMPT}
            answer = await client.post("/v1/inference", json=asked)
            too_long = {"job_id": "job-2", "prompt": "bee " * (CONTEXT + 1)}
            refused = await client.post("/v1/inference", json=too_long)
            model = report["model_ref"]
            longs = await client.post(
                "/v1/embeddings", json={"model": model, "input": ["a", too_long["prompt"]]}
            )
            vectors = await typed.embeddings.create(model=model, input=[PROMPT, *TEXTS])
        worker.send(signal.SIGTERM)
        assert await asyncio.to_thread(worker.exit_code) == 0
        lines = [json.loads(line) for line in worker.said().splitlines()]
    [output] = [event for event in bodies(answer.content) if event["type"] == "output"]
    assert output["dim"] == len(output["embedding"])
    assert vectors.data[0].embedding == pytest.approx(output["embedding"], abs=1e-6)
    assert np.linalg.norm(output["embedding"]) == pytest.approx(1.0, abs=1e-6)
    assert refused.status_code == longs.status_code == 400
    [fault] = refused.json()["errors"]
    assert (fault["field"], fault["constraint"]) == ("prompt", f"context_length({CONTEXT})")
    assert fault["message"].startswith("prompt has ")
    error = longs.json()["error"]
    assert (error["param"], error["code"]) == ("input[1]", "context_length_exceeded")
    beats = [beat.body["worker"] for beat in hive.received("/v1/worker-heartbeat")]
    assert (beats[0]["status"], beats[-1]["status"]) == ("starting", "stopped")
    assert {beat["model_id"] for beat in beats} == {model}
    assert {line["correlation_id"] for line in lines if line.get("job_id") == "job-1"} == {"c-1"}
    log = json.dumps(lines)
    assert SECRET not in log
    assert PROMPT not in log


async def test_its_vectors_are_those_of_the_embedder(artifact: Path, hive: Hive) -> None:
    with Embedder.load(artifact, backend="cpu") as embedder:
        expected = embedder.embed(TEXTS)
        ids = [tuple(embedder.tokenizer.encode(text)) for text in TEXTS]
    with started(REAL, *flags_for(artifact, hive)):
        report = (await reported(hive)).body
        async with client_of(report["url"]) as client:
            for given in (TEXTS, ids):
                for form in ("float", "base64"):
                    answer = await client.embeddings.create(
                        model=report["model_ref"], input=given, encoding_format=form
                    )
                    found = [one.embedding for one in answer.data]
                    if form == "base64":
                        # Asked for by name, it is handed on as it comes.
                        found = [np.frombuffer(base64.b64decode(str(one)), "<f4") for one in found]
                    assert np.array_equal(np.array(found, np.float32), expected)
                    assert answer.usage.prompt_tokens == sum(map(len, ids))


async def test_a_decoder_serves_its_vectors(
    make_embedding_decoder: MakeEncoder, make_embedder: MakeArtifact, hive: Hive
) -> None:
    model = make_embedder(make_embedding_decoder(), "int8")
    with Embedder.load(model, backend="cpu") as embedder:
        expected = embedder.embed(TEXTS)
    with started(REAL, *flags_for(model, hive)):
        report = (await reported(hive)).body
        async with (
            client_of(report["url"]) as client,
            httpx.AsyncClient(base_url=report["url"], timeout=30) as plain,
        ):
            answer = await client.embeddings.create(model=report["model_ref"], input=TEXTS)
            asked = {"job_id": "job-1", "prompt": TEXTS[0]}
            streamed = await plain.post("/v1/inference", json=asked)
    found = np.array([one.embedding for one in answer.data], np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    [output] = [event for event in bodies(streamed.content) if event["type"] == "output"]
    np.testing.assert_allclose(output["embedding"], expected[0], atol=1e-6)


async def test_a_reranker_answers_in_its_order(
    make_encoder: MakeEncoder, make_reranker: MakeArtifact, hive: Hive
) -> None:
    model = make_reranker(make_encoder(modules=None, head=HEAD, num_labels=1), "fp32")
    with Reranker.load(model, backend="cpu") as reranker:
        expected = reranker.rank("A hive", TEXTS)
    with started(REAL, *flags_for(model, hive, "--slots", "2")) as worker:
        report = (await reported(hive)).body
        asked = {"model": report["model_ref"], "query": "A hive", "documents": TEXTS}
        async with httpx.AsyncClient(base_url=report["url"], timeout=30) as client:
            answer = await client.post("/v1/rerank", json=asked)
        assert "Of no use to a reranker" in worker.said()
    found = [(one["index"], one["relevance_score"]) for one in answer.json()["results"]]
    assert found == [(each.index, pytest.approx(each.score, abs=1e-6)) for each in expected]


async def test_a_checkpoint_is_exported_once(checkpoint: Path, tmp_path: Path, hive: Hive) -> None:
    """Until it is, nobody knows that it is an encoder's."""
    environment = {"RBEE_ARTIFACT_CACHE": str(tmp_path)}
    made = []
    for count in (1, 2):
        flags = flags_for(checkpoint, hive, "--hive-url", hive.url)
        with started(REAL, *flags, environment=environment) as worker:
            report = (await reported(hive, count)).body
            async with client_of(report["url"]) as client:
                answer = await client.embeddings.create(model=report["model_ref"], input="A bee")
            assert len(answer.data) == 1
            worker.send(signal.SIGTERM)
            assert await asyncio.to_thread(worker.exit_code) == 0
        made.append([(file, file.stat().st_mtime_ns) for file in tmp_path.glob("*/*")])
    assert made[0]
    assert made[0] == made[1]
    beats = hive.received("/v1/worker-heartbeat")
    assert {beat.body["worker"]["model_id"] for beat in beats} == {report["model_ref"]}


async def test_a_real_model(sample_encoder: Path, tmp_path: Path, hive: Hive) -> None:
    texts = [
        "The bees make honey in the hive.",
        "Honey is what bees make at home.",
        "The stock market fell sharply on Monday.",
    ]
    environment = {"RBEE_ARTIFACT_CACHE": str(tmp_path)}
    with started(REAL, *flags_for(sample_encoder, hive), environment=environment):
        report = (await reported(hive)).body
        async with client_of(report["url"]) as client:
            answer = await client.embeddings.create(
                model=report["model_ref"], input=texts, dimensions=384
            )
    vectors = np.array([one.embedding for one in answer.data])
    assert vectors.shape == (3, 384)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.7
    assert likeness[0, 2] < 0.2


def test_what_it_does_not_run_on(artifact: Path) -> None:
    flags = ["--model", str(artifact), "--port", "0", "--backend", "tensorrt"]
    code, lines = run(*flags)
    assert code == 5
    assert lines[-1].startswith("rbee-worker: ")
    assert "not on tensorrt" in lines[-1]


async def test_flags_of_language_models(artifact: Path, hive: Hive) -> None:
    with started(REAL, *flags_for(artifact, hive, "--slots", "2")) as worker:
        await reported(hive)
        said = worker.said()
    assert "Of no use to an embedding model" in said
    assert "--slots" in said
    assert "--context-length" not in said


LOADED = """
import sys
from pathlib import Path
from rbee_service.model_loader import load_model
from rbee_service.options import parse_options
import rbee_service.worker

load_model(Path(sys.argv[1]), parse_options(["--model", "m"], {}), lambda _: None).close()
print(*(name for name in sys.modules if name.startswith("rbee_")))
"""


@pytest.mark.parametrize("kind", ["language", "embedding"])
def test_no_kind_loads_what_runs_the_other(artifact: Path, tiny_artifact: Path, kind: str) -> None:
    model = tiny_artifact if kind == "language" else artifact
    command = [sys.executable, "-c", LOADED, str(model)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "rbee_runtime.reranker" not in loaded
    engines = {
        "language": {"rbee_runtime.engine", "rbee_runtime.loop", "rbee_runtime.scheduler"},
        "embedding": {"rbee_runtime.embedder", "rbee_runtime.embedding.loop"},
    }
    assert engines.pop(kind) <= set(loaded)
    [others] = engines.values()
    assert not others & set(loaded)
