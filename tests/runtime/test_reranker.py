"""The reranker over a real artifact, as a caller sees it."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.makers import MakeArtifact, MakeEncoder
from support.rerankers import DOCUMENTS, HEAD, QUERY
from support.tiny_encoders import CONTEXT
from support.tiny_llama import copy_of

from rbee_runtime import Embedder, Engine, Reranker
from rbee_runtime.artifact import MANIFEST_NAME, RerankerArtifact, open_artifact, task_of
from rbee_runtime.errors import ArtifactError, ContextOverflow, EngineClosed, InvalidRequest
from rbee_runtime.events import Failed, StopReason
from rbee_runtime.reranking.events import RerankEvent, Scored
from rbee_runtime.reranking.request import RerankRequest


@pytest.fixture(scope="module")
def artifact(make_encoder: MakeEncoder, make_reranker: MakeArtifact) -> Path:
    return make_reranker(make_encoder(modules=None, head=HEAD, num_labels=1), "fp32")


@pytest.fixture(scope="module")
def reranker(artifact: Path) -> Iterator[Reranker]:
    with Reranker.load(artifact, backend="cpu") as reranker:
        yield reranker


def test_the_best_first(reranker: Reranker) -> None:
    scores = reranker.score(QUERY, DOCUMENTS)
    assert scores.dtype == np.float32
    ranked = reranker.rank(QUERY, DOCUMENTS)
    assert [(each.index, each.score) for each in ranked] == [
        (index, pytest.approx(scores[index], abs=1e-6)) for index in np.argsort(-scores)
    ]
    assert reranker.rank(QUERY, DOCUMENTS, top_n=2) == ranked[:2]
    assert [each.index for each in reranker.rank(QUERY, ["x"] * 3)] == [0, 1, 2]
    assert reranker.score(QUERY, []).shape == (0,)


def test_more_documents_than_a_request_may_have(reranker: Reranker) -> None:
    scores = reranker.score("x", [DOCUMENTS[number % 2] for number in range(2050)])
    expected = reranker.score("x", DOCUMENTS[:2])
    np.testing.assert_allclose(scores, np.resize(expected, 2050), atol=1e-5)


def test_events_come_in_order(reranker: Reranker) -> None:
    heard: queue.SimpleQueue[RerankEvent] = queue.SimpleQueue()
    reranker.submit(RerankRequest("a", QUERY, DOCUMENTS), heard.put)
    told = [heard.get(timeout=30) for _ in range(len(DOCUMENTS) + 1)]
    *scored, end = told
    assert [each.index for each in scored if isinstance(each, Scored)] == [0, 1, 2, 3, 4]
    assert not isinstance(end, Failed | Scored)
    assert (end.stop, end.tokens > CONTEXT) == (StopReason.EOS, True)


@pytest.mark.parametrize(
    ("query", "documents", "message"),
    [
        ("", ("x",), "query must not be empty"),
        ("x", (), "documents must not be empty"),
        ("x", ("a",) * 2049, "documents are 2049, and a request may have 2048"),
        ("a\udc80", ("x",), "query has an unpaired surrogate"),
        ("x", ("a", "b\udc80"), r"documents\[1\] has an unpaired surrogate"),
    ],
)
def test_what_can_never_be_served(
    query: str, documents: tuple[str, ...], message: str, reranker: Reranker
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        reranker.submit(RerankRequest("bad", query, documents), lambda _: None)


def test_a_query_leaves_room_for_a_document(reranker: Reranker) -> None:
    def room(query: str) -> int:
        [pair] = reranker.tokenizer.pairs(query, [""], CONTEXT, ["x"])
        return CONTEXT - len(pair.ids)

    query = "x"
    while room(query) > 1:
        query += " x"
    assert np.isfinite(reranker.score(query, DOCUMENTS)).all()
    with pytest.raises(ContextOverflow, match=f"has {CONTEXT + 1} tokens.*: shorten") as caught:
        reranker.score(f"{query} x", DOCUMENTS)
    assert caught.value.field == "query"
    with pytest.raises(InvalidRequest, match="a list of texts"):
        reranker.score(QUERY, "x")


def test_it_is_closed(artifact: Path) -> None:
    with Reranker.load(artifact) as closed:
        pass
    with pytest.raises(EngineClosed):
        closed.score(QUERY, DOCUMENTS)


@pytest.mark.parametrize("kind", [Embedder, Engine])
def test_it_is_nothing_else(kind: Any, artifact: Path) -> None:
    with pytest.raises(ArtifactError, match="is a reranker: rbee-worker runs it"):
        kind.load(artifact)


def test_nothing_else_is_one(
    make_encoder: MakeEncoder, make_embedder: MakeArtifact, artifact: Path, tmp_path: Path
) -> None:
    assert (task_of(artifact), type(open_artifact(artifact))) == ("rerank", RerankerArtifact)
    with pytest.raises(ArtifactError, match="is an embedding model: rbee-embed"):
        Reranker.load(make_embedder(make_encoder(), "fp32"))
    copy = copy_of(artifact, tmp_path)
    file = copy / MANIFEST_NAME
    manifest = json.loads(file.read_text())
    manifest["scoring"]["activation"] = "tanh"
    file.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"invalid manifest at scoring\.activation"):
        Reranker.load(copy)
