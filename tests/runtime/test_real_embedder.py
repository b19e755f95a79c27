"""A real encoder, all-MiniLM-L6-v2: texts that mean alike are near, however they are packed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.makers import MakeArtifact

from rbee_export import open_embedder
from rbee_export.embedder_evaluation import reference_embeddings
from rbee_runtime import Embedder

PAIRS = [
    ("How do I bake bread?", "a recipe for a loaf"),
    ("The stock market fell sharply today.", "Shares dropped a lot this afternoon."),
    ("My cat sleeps all day long.", "kittens nap for many hours"),
    ("The worker exports a model ahead of time.", "Neural networks are compiled before serving."),
    ("It rained in Amsterdam.", "Wet weather in the capital of the Netherlands"),
]
LONG = "A hive has a queen, and the queen has many workers who fly out for nectar. " * 10


@pytest.fixture(scope="module", params=["fp32", "int8"])
def embedder(
    request: pytest.FixtureRequest, sample_encoder: Path, make_embedder: MakeArtifact
) -> Iterator[Embedder]:
    with Embedder.load(make_embedder(sample_encoder, request.param)) as embedder:
        yield embedder


def test_what_means_alike_is_nearest(embedder: Embedder) -> None:
    assert (embedder.dim, embedder.context_length) == (384, 256)
    texts = [text for pair in PAIRS for text in pair]
    vectors = embedder.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ vectors.T - 2 * np.eye(len(texts))
    assert cosines.argmax(1).tolist() == [number ^ 1 for number in range(len(texts))]


def test_vectors_are_those_of_the_weights(embedder: Embedder, sample_encoder: Path) -> None:
    texts = [PAIRS[0][0], LONG, PAIRS[1][1]]
    ids = [embedder.tokenizer.encode(text) for text in texts]
    expected = reference_embeddings(open_embedder(sample_encoder), ids)
    cosines = (embedder.embed(texts) * expected).sum(1)
    least = 1 - 1e-5 if embedder.manifest.precision == "fp32" else 0.999
    assert cosines.min() > least


def test_many_callers_get_their_own(embedder: Embedder) -> None:
    texts = [text for pair in PAIRS for text in pair] + [LONG]
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    cosines: list[float] = []

    def call(first: int) -> None:
        for count in range(1, 6):
            order = [(first + number) % len(texts) for number in range(count * 3)]
            vectors = embedder.embed([texts[number] for number in order])
            cosines.append(float((vectors * alone[order]).sum(1).min()))

    callers = [threading.Thread(target=call, args=(first,)) for first in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert len(cosines) == 30
    assert min(cosines) > 0.999
