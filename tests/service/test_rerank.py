"""A reranker on the worker's own routes, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from stand_in import StandInEngine, served
from stand_in_embedder import StandInEmbedder, finished

from rbee_runtime.artifact import FileEntry, RerankerManifest, Scoring, Source, TextShapes
from rbee_runtime.embedding import EmbeddingFinished
from rbee_runtime.errors import InputTooLong, OutOfMemory, QueueFull, RuntimeFault
from rbee_runtime.events import Failed, StopReason
from rbee_runtime.reranking.events import RerankEvent, Scored
from rbee_runtime.reranking.request import RerankRequest

MODEL = "hf:test/ranks"
QUERY = "SECRET question"
ASKED: dict[str, Any] = {
    "model": MODEL,
    "query": QUERY,
    "documents": ["four", {"text": "longest"}, "five5", "four"],
}


def manifest() -> RerankerManifest:
    return RerankerManifest(
        exporter="test",
        source=Source(format="safetensors", name="stand-in", sha256="0" * 64),
        model_ref=MODEL,
        family="bert",
        shapes=TextShapes(
            layers=2, hidden=8, intermediate=16, heads=2, vocab=32, context_length=512
        ),
        precision="fp32",
        scoring=Scoring(pooling="cls", activation="sigmoid", token_types=True),
        files=tuple(
            FileEntry(role=role, path=role, size=1, sha256="0" * 64)
            for role in ("graph", "weights", "tokenizer")
        ),
    )


def scores(request: RerankRequest) -> Iterator[RerankEvent]:
    """Score every document by its letters, which are its tokens."""
    for index, document in enumerate(request.documents):
        yield Scored(request.request_id, index, len(document) / 8)
    yield finished(request.request_id, sum(map(len, request.documents)))


def breaks(fault: RuntimeFault) -> Any:
    return lambda _: [Failed(fault)]


@dataclass
class StandInReranker(StandInEngine):
    """Answers each request, from a thread, with what ``answer`` returns for it."""

    ends: ClassVar[tuple[type, ...]] = (EmbeddingFinished, Failed)

    answer: Callable[[Any], Iterable[Any]] = scores
    manifest: Any = field(default_factory=manifest)

    def end_of_cancelled(self, request_id: str) -> Any:
        return finished(request_id, stop=StopReason.CANCELLED)


USAGE = '"usage":{"prompt_tokens":20,"total_tokens":20}'
BODIES: list[tuple[dict[str, Any], str]] = [
    (
        {},
        '{"index":1,"relevance_score":0.875},{"index":2,"relevance_score":0.625},'
        '{"index":0,"relevance_score":0.5},{"index":3,"relevance_score":0.5}',
    ),
    ({"top_n": 1, "user": "me"}, '{"index":1,"relevance_score":0.875}'),
    (
        {"top_n": 2, "return_documents": True},
        '{"index":1,"relevance_score":0.875,"document":{"text":"longest"}},'
        '{"index":2,"relevance_score":0.625,"document":{"text":"five5"}}',
    ),
    ({"top_n": 9, "documents": [""]}, '{"index":0,"relevance_score":0.0}'),
]


@pytest.mark.parametrize(("more", "results"), BODIES)
async def test_the_bytes_of_an_answer(tmp_path: Path, more: dict[str, Any], results: str) -> None:
    reranker = StandInReranker()
    async with served(tmp_path, reranker) as (client, _):
        first = await client.post("/v1/rerank", json=ASKED | more)
        second = await client.post("/v2/rerank", json=ASKED | more)
    usage = USAGE.replace("20", "0") if "documents" in more else USAGE
    for answer, request in zip((first, second), reranker.submitted, strict=True):
        assert answer.headers["content-type"] == "application/json"
        name = f"rerank-{request.request_id}"
        told = f'{{"id":"{name}","model":"{MODEL}",{usage},"results":[{results}]}}'
        assert answer.text == told


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"query": ""}, "query", "query must have at least 1 character"),
    ({"query": None}, "query", "query is required"),
    ({"documents": []}, "documents", "documents must have at least 1 item"),
    ({"documents": ["a"] * 2049}, "documents", "documents must have at most 2048 items"),
    ({"documents": "SECRET"}, "documents", "documents must be an array"),
    ({"documents": ["a", 3]}, "documents[1]", "documents[1]: must be a text, or an object with"),
    ({"documents": [{"title": "SECRET"}]}, "documents[0].text", "documents[0].text is required"),
    ({"top_n": 0}, "top_n", "top_n must be at least 1"),
    ({"return_documents": "SECRET"}, "return_documents", "return_documents must be a boolean"),
    ({"rank_fields": ["SECRET"]}, "rank_fields", "rank_fields is not known"),
]


@pytest.mark.parametrize(("changed", "param", "message"), REFUSED)
async def test_nothing_is_ignored(
    tmp_path: Path, changed: dict[str, Any], param: str, message: str
) -> None:
    reranker = StandInReranker()
    async with served(tmp_path, reranker) as (client, _):
        answer = await client.post("/v1/rerank", json=ASKED | changed)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert message in answer.json()["error"]["message"]
    assert "SECRET" not in answer.text
    assert not reranker.submitted


@pytest.mark.parametrize(
    ("reranker", "status", "code"),
    [
        (StandInReranker(refusal=QueueFull("full")), 503, "insufficient_resources"),
        (StandInReranker(refusal=InputTooLong("query", 9, 8)), 400, "context_length_exceeded"),
        (StandInReranker(answer=breaks(OutOfMemory("full"))), 507, "insufficient_vram"),
    ],
)
async def test_what_the_reranker_does_not_do(
    tmp_path: Path, reranker: StandInReranker, status: int, code: str
) -> None:
    async with served(tmp_path, reranker) as (client, _):
        answer = await client.post("/v1/rerank", json=ASKED)
        other = await client.post("/v1/rerank", json=ASKED | {"model": "hf:a/b"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")


async def test_each_kind_says_where_it_is_asked(tmp_path: Path) -> None:
    async with served(tmp_path, StandInReranker()) as (client, _):
        for path in ("embeddings", "chat/completions", "inference", "jobs", "infer"):
            answer = await client.post(f"/v1/{path}", json={})
            assert answer.status_code == 400
            assert "hf:test/ranks is a reranker: ask /v1/rerank" in answer.text
    async with served(tmp_path, StandInEmbedder()) as (client, _):
        answer = await client.post("/v1/rerank", json=ASKED)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message.startswith("hf:test/embeds is an embedding model: ask /v1/embeddings, ")


async def test_what_requests_leave_in_the_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with served(tmp_path, StandInReranker()) as (client, _):
        await client.post("/v1/rerank", json=ASKED)
        told = (await client.get("/metrics")).text
    assert {
        "rbee_scores_total 4.0",
        "rbee_prompt_tokens_total 20.0",
        'rbee_inferences_total{outcome="EOS"} 1.0',
        'rbee_http_requests_total{route="/v1/rerank",status="200"} 1.0',
    } <= set(told.splitlines())
    assert "rbee_vectors" not in told
    said = capsys.readouterr()
    assert "SECRET" not in said.out + said.err
