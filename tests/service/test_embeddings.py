"""An embedding model, asked by OpenAI's own client, on the worker's own routes, byte for byte."""

from __future__ import annotations

import asyncio
import base64
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from stand_in import MODEL as LANGUAGE_MODEL
from stand_in import Gate, StandInEngine, bodies, golden, running, served
from stand_in_embedder import DIM, MODEL, STREAM, StandInEmbedder, embedded, manifest

from rbee_runtime.embedding import EmbeddingEvent, EmbeddingRequest
from rbee_runtime.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    OutOfMemory,
    QueueFull,
    RuntimeFault,
)
from rbee_runtime.events import Failed

ONE: dict[str, Any] = {"model": MODEL, "input": "Hello"}
JOB: dict[str, Any] = {"job_id": "job-1", "prompt": "Hello"}

WHOLE = (
    '{"object":"list","data":['
    '{"object":"embedding","index":0,"embedding":[1.25,0.0,-0.5,0.10000000149011612]},'
    '{"object":"embedding","index":1,"embedding":[0.5,1.0,-0.5,0.10000000149011612]}'
    '],"model":"hf:test/embeds","usage":{"prompt_tokens":7,"total_tokens":7}}'
)


def numbers(request: EmbeddingRequest, index: int) -> list[float]:
    return embedded(request, index).vector.tolist()


def endless(request: EmbeddingRequest) -> Iterator[EmbeddingEvent]:
    """Give one vector, and then say nothing more."""
    yield embedded(request, 0)


def breaks(fault: RuntimeFault) -> Any:
    return lambda _: [Failed(fault)]


INPUTS: list[tuple[Any, tuple[str | tuple[int, ...], ...]]] = [
    ("Hello", ("Hello",)),
    (["Hello"], ("Hello",)),
    (["Hello", "é 日本 🐝", "Hello"], ("Hello", "é 日本 🐝", "Hello")),
    ([7, 8, 9], ((7, 8, 9),)),
    ([[7, 8], [9]], ((7, 8), (9,))),
]


@pytest.mark.parametrize(("given", "inputs"), INPUTS)
async def test_openais_client_gets_the_vectors(
    tmp_path: Path, given: Any, inputs: tuple[str | tuple[int, ...], ...]
) -> None:
    embedder = StandInEmbedder()
    async with (
        served(tmp_path, embedder) as (_, worker),
        openai.AsyncOpenAI(
            base_url=f"{worker.url}/v1", api_key="none", max_retries=0, timeout=10
        ) as client,
    ):
        # Unless it is told otherwise, it asks for base64, and reads it.
        answers = [
            await client.embeddings.create(model=MODEL, input=given),
            await client.embeddings.create(model=MODEL, input=given, encoding_format="float"),
        ]
        models = [model.id async for model in client.models.list()]
    assert models == [MODEL]
    for request, answer in zip(embedder.submitted, answers, strict=True):
        assert request.inputs == inputs
        assert [one.index for one in answer.data] == list(range(len(inputs)))
        expected = [numbers(request, index) for index in range(len(inputs))]
        assert [one.embedding for one in answer.data] == expected
        assert (answer.object, answer.model) == ("list", MODEL)
        tokens = sum(map(len, inputs))
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)


async def test_the_bytes_of_an_answer(tmp_path: Path) -> None:
    body = ONE | {"input": ["Hello", "Hi"]}
    async with served(tmp_path, StandInEmbedder()) as (client, _):
        plain = await client.post("/v1/embeddings", json=body)
        packed = await client.post("/v1/embeddings", json=body | {"encoding_format": "base64"})
    assert plain.headers["content-type"] == "application/json"
    assert plain.text == WHOLE
    found = [one["embedding"] for one in packed.json()["data"]]
    # Little-endian, on whatever machine.
    assert base64.b64decode(found[0]).hex() == "0000a03f00000000000000bfcdcccc3d"
    assert struct.unpack("<4f", base64.b64decode(found[1]))[:3] == (0.5, 1.0, -0.5)


async def test_as_many_texts_as_there_may_be(tmp_path: Path) -> None:
    """All of their vectors may be there before the first is written."""
    embedder = StandInEmbedder()
    async with served(tmp_path, embedder) as (client, _):
        most = await client.post("/v1/embeddings", json=ONE | {"input": ["a"] * 2048})
        more = await client.post("/v1/embeddings", json=ONE | {"input": ["a"] * 2049})
        health = await client.get("/health")
    assert [one["index"] for one in most.json()["data"]] == list(range(2048))
    assert most.json()["usage"]["prompt_tokens"] == 2048
    assert more.status_code == 400
    assert more.json()["error"]["message"] == "input must have at most 2048 items"
    assert health.status_code == 200
    assert len(embedder.submitted) == 1


MATRYOSHKA: list[tuple[Literal["any"] | tuple[int, ...], int, str | None]] = [
    ("any", 1, None),
    ("any", 3, None),
    ("any", DIM, None),
    ("any", DIM + 1, "dimensions must be at most 4, as many as"),
    ((1, 3), 3, None),
    ((1, 3), DIM, None),
    ((1, 3), 2, "dimensions must be one of 1, 3, 4, as many as"),
]


@pytest.mark.parametrize(("matryoshka", "asked", "refusal"), MATRYOSHKA)
async def test_vectors_are_cut_where_the_model_was_trained_for_it(
    tmp_path: Path,
    matryoshka: Literal["any"] | tuple[int, ...],
    asked: int,
    refusal: str | None,
) -> None:
    embedder = StandInEmbedder(manifest=manifest(matryoshka))
    body = ONE | {"dimensions": asked}
    async with served(tmp_path, embedder) as (client, _):
        plain = await client.post("/v1/embeddings", json=body)
        packed = await client.post("/v1/embeddings", json=body | {"encoding_format": "base64"})
    if refusal is not None:
        assert plain.status_code == packed.status_code == 400
        assert refusal in plain.json()["error"]["message"]
        return
    [vector], [text] = ([one["embedding"] for one in a.json()["data"]] for a in (plain, packed))
    whole = numbers(embedder.submitted[0], 0)
    if asked == DIM:
        assert vector == whole
    else:
        length = math.hypot(*whole[:asked])
        assert vector == pytest.approx([number / length for number in whole[:asked]], abs=1e-7)
    assert list(struct.unpack(f"<{asked}f", base64.b64decode(text))) == vector


async def test_what_changes_nothing_may_be_said(tmp_path: Path) -> None:
    said = {"user": "somebody", "dimensions": DIM, "encoding_format": None, "store": False}
    async with served(tmp_path, StandInEmbedder()) as (client, _):
        answer = await client.post("/v1/embeddings", json=ONE | said)
    assert answer.status_code == 200


FORMS = "must be a text, token ids, or a list of either"
REFUSED: list[tuple[dict[str, Any], str | None, str, str]] = [
    ({"dimensions": 2}, "dimensions", "invalid_value", "dimensions must be 4, as many as"),
    ({"dimensions": 0}, "dimensions", "invalid_value", "dimensions must be at least 1"),
    ({"encoding_format": "int8"}, "encoding_format", "invalid_value", "must be float or base64"),
    ({"truncate": True}, "truncate", "unknown_parameter", "truncate is not known"),
    ({"tools": [1]}, "tools", "unsupported_parameter", "tools is not served"),
    ({"user": 3}, "user", "invalid_value", "user must be a string"),
    ({"input": None}, "input", "missing_required_parameter", "input is required"),
    ({"input": ""}, "input", "invalid_value", "input must have at least 1 character"),
    ({"input": []}, "input", "invalid_value", "input must have at least 1 item"),
    ({"input": [[]]}, "input[0]", "invalid_value", "input[0] must have at least 1 item"),
    ({"input": ["a", ""]}, "input[1]", "invalid_value", "input[1] must have at least 1 character"),
    ({"input": ["a", 3]}, "input[1]", "invalid_value", "input[1] must be a string"),
    ({"input": [3, "a"]}, "input[1]", "invalid_value", "input[1] must be an integer"),
    ({"input": [-1]}, "input[0]", "invalid_value", "input[0] must be at least 0"),
    ({"input": [[1], [2, -1]]}, "input[1][1]", "invalid_value", "must be at least 0"),
    ({"input": [[1], "a"]}, "input[1]", "invalid_value", "input[1] must be an array"),
    ({"input": 3}, "input", "invalid_value", f"input: {FORMS}"),
    ({"input": {"text": "SECRET"}}, "input", "invalid_value", f"input: {FORMS}"),
]


@pytest.mark.parametrize(("changed", "param", "code", "message"), REFUSED)
async def test_nothing_is_ignored(
    tmp_path: Path, changed: dict[str, Any], param: str | None, code: str, message: str
) -> None:
    embedder = StandInEmbedder()
    async with served(tmp_path, embedder) as (client, _):
        answer = await client.post("/v1/embeddings", json=ONE | changed)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert message in error["message"]
    assert not re.search(r"SECRET|Input|should", answer.text)
    assert not embedder.submitted


async def test_another_model_is_not_there(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEmbedder()) as (client, _):
        answer = await client.post("/v1/embeddings", json=ONE | {"model": "gpt-x"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (QueueFull("the queue is full"), 503, "insufficient_resources"),
        (DeadlineExceeded("too late"), 504, "inference_timeout"),
        (InvalidRequest("input[0]", "input[0] has no tokens"), 400, "invalid_value"),
    ],
)
async def test_refused_by_the_embedder(
    tmp_path: Path, fault: RuntimeFault, status: int, code: str
) -> None:
    async with served(tmp_path, StandInEmbedder(refusal=fault)) as (client, _):
        answer = await client.post("/v1/embeddings", json=ONE)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("fault", "status"),
    [(OutOfMemory("too much"), 507), (InferenceFailed("no"), 500), (DeadlineExceeded("late"), 408)],
)
async def test_failed_in_the_embedder(tmp_path: Path, fault: RuntimeFault, status: int) -> None:
    async with served(tmp_path, StandInEmbedder(answer=breaks(fault))) as (client, _):
        answer = await client.post("/v1/embeddings", json=ONE)
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == str(fault)


async def test_a_deadline_that_has_passed(tmp_path: Path) -> None:
    embedder = StandInEmbedder()
    async with served(tmp_path, embedder) as (client, _):
        answer = await client.post("/v1/embeddings", json=ONE, headers={"x-deadline": "1"})
    assert answer.status_code == 504
    assert not embedder.submitted


async def test_a_client_that_goes_away_ends_its_request(tmp_path: Path) -> None:
    embedder = StandInEmbedder(answer=endless)
    async with served(tmp_path, embedder) as (client, _):
        asking = asyncio.create_task(client.post("/v1/embeddings", json=ONE))
        await embedder.wait(lambda: embedder.live == 1)
        asking.cancel()
        await embedder.wait(lambda: len(embedder.cancelled) == 1)


async def test_an_inference(tmp_path: Path) -> None:
    embedder = StandInEmbedder()
    async with served(tmp_path, embedder) as (client, _):
        answer = await client.post("/v1/inference", json=JOB | {"max_tokens": -1, "stop": 3})
    assert golden(answer.text) == STREAM
    told = [event["action"] for event in bodies(answer.content) if event["type"] == "narration"]
    assert told == ["accept", "complete"]
    [request] = embedder.submitted
    assert request.inputs == ("Hello",)


async def test_faults_of_an_inference_are_all_named(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEmbedder()) as (client, _):
        answer = await client.post("/v1/inference", json={"job_id": "", "prompt": "x" * 32769})
    assert answer.status_code == 400
    faults = {(f["field"], f["constraint"]) for f in answer.json()["errors"]}
    assert faults == {("job_id", "length(1..=256)"), ("prompt", "length(1..=32768)")}
    assert "xxx" not in answer.text


async def test_an_inference_that_fails(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEmbedder(answer=breaks(OutOfMemory("full")))) as (client, _):
        answer = await client.post("/v1/inference", json=JOB)
    *_, narration, failed = bodies(answer.content)
    assert narration["action"] == "fail"
    assert failed == {"type": "error", "code": "VRAM_OOM", "message": "full"}


async def test_a_job(tmp_path: Path) -> None:
    embedder = StandInEmbedder()
    async with served(tmp_path, embedder) as (client, _):
        created = await client.post("/v1/jobs", json={"operation": "infer", "prompt": "Hello"})
        assert not embedder.submitted
        answer = await client.get(created.json()["sse_url"])
        again = await client.get(created.json()["sse_url"])
        bad = await client.post("/v1/jobs", json={"operation": "embed"})
    assert golden(answer.text) == STREAM.replace("job-1", created.json()["job_id"])
    assert again.status_code == 404
    assert {f["field"] for f in bad.json()["errors"]} == {"operation", "prompt"}


async def test_a_job_that_is_cancelled(tmp_path: Path) -> None:
    embedder = StandInEmbedder(answer=lambda _: [])
    async with served(tmp_path, embedder) as (client, _):
        created = (await client.post("/v1/jobs", json=JOB | {"operation": "infer"})).json()
        reading = asyncio.create_task(client.get(created["sse_url"]))
        await embedder.wait(lambda: embedder.live == 1)
        assert (await client.delete(f"/v1/jobs/{created['job_id']}")).status_code == 202
        answer = await reading
    assert answer.text.endswith("data: [CANCELLED]\n\n")
    assert '"items_out":0,"decode_time_ms":500,"stop_reason":"CANCELLED"' in answer.text


ELSEWHERE = "hf:test/embeds is an embedding model: ask /v1/embeddings, /v1/inference or /v1/jobs"


async def test_what_only_a_language_model_answers(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEmbedder()) as (client, _):
        chat = await client.post("/v1/chat/completions", json={})
        text = await client.post("/v1/completions", json={})
        response = await client.post("/v1/responses", json={})
        whole = await client.post("/v1/infer", json={"prompt": "Hello"})
    for answer in (chat, text, response):
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["message"], error["type"]) == (ELSEWHERE, "invalid_request_error")
    assert whole.status_code == 400
    assert whole.json() == {"code": "INVALID_REQUEST", "message": ELSEWHERE, "retriable": False}


async def test_what_only_an_embedding_model_answers(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        answer = await client.post("/v1/embeddings", json={})
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message.startswith(f"{LANGUAGE_MODEL} is a language model: ask /v1/chat/completions, ")


async def test_before_anybody_knows_what_it_will_be(tmp_path: Path) -> None:
    posts = ["embeddings", "chat/completions", "completions", "responses"]
    posts += ["inference", "infer", "jobs"]
    async with (
        running(tmp_path, Gate(StandInEmbedder())) as worker,
        httpx.AsyncClient(base_url=worker.url, timeout=10) as client,
    ):
        for path in posts:
            answer = await client.post(f"/v1/{path}", json={})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), path
            assert "the model is still loading" in answer.text


async def test_it_tells_of_itself_as_any_worker_does(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEmbedder()) as (client, _):
        info = (await client.get("/info")).json()
        ready = (await client.get("/v1/ready")).json()
    assert (info["model_id"], info["device"], info["status"]) == (MODEL, "CPU-0", "ready")
    assert (ready["ready"], ready["state"]) == (True, "idle")


async def test_what_requests_leave_in_the_metrics(tmp_path: Path) -> None:
    embedder = StandInEmbedder()
    async with served(tmp_path, embedder) as (client, _):
        await client.post("/v1/embeddings", json=ONE | {"input": ["Hello", "Hi"]})
        await client.post("/v1/inference", json=JOB)
        embedder.answer = breaks(OutOfMemory("full"))
        await client.post("/v1/inference", json=JOB)
        embedder.refusal = QueueFull("full")
        await client.post("/v1/inference", json=JOB)
        told = set((await client.get("/metrics")).text.splitlines())
    assert {
        "rbee_vectors_total 3.0",
        "rbee_prompt_tokens_total 12.0",
        "rbee_generated_tokens_total 0.0",
        "rbee_time_to_first_token_seconds_count 2.0",
        "rbee_inference_seconds_count 3.0",
        'rbee_inferences_total{outcome="EOS"} 2.0',
        'rbee_inferences_total{outcome="VRAM_OOM"} 1.0',
        'rbee_inferences_total{outcome="REFUSED"} 1.0',
        'rbee_http_requests_total{route="/v1/embeddings",status="200"} 1.0',
        "rbee_slots 1.0",
        "rbee_memory_bytes 5.36870912e+08",
    } <= told


async def test_a_language_models_metrics_have_none_of_it(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        await client.post("/v1/inference", json=JOB | {"max_tokens": 4})
        assert "rbee_vectors" not in (await client.get("/metrics")).text
