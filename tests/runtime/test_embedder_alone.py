"""Whoever is alone is served on its own thread: over packs that a test controls."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.makers import MakeArtifact, MakeEncoder
from support.stand_in_backend import Gate
from support.stand_in_encoder import StandInEncoder

from rbee_runtime.artifact import EmbedderArtifact
from rbee_runtime.embedder import Embedder
from rbee_runtime.embedding.events import EmbeddingEvent, EmbeddingFinished
from rbee_runtime.embedding.loop import SLOTS
from rbee_runtime.embedding.packer import Pack
from rbee_runtime.embedding.request import EmbeddingRequest
from rbee_runtime.errors import DeviceLost, EngineClosed
from rbee_runtime.tokenizer import Tokenizer

MakeEmbedder = Callable[..., Embedder]


@pytest.fixture(scope="module")
def artifact(make_encoder: MakeEncoder, make_embedder: MakeArtifact) -> Path:
    return make_embedder(make_encoder(), "fp32")


@pytest.fixture
def make(artifact: Path) -> Iterator[MakeEmbedder]:
    """``make(before)``: called with each pack; all are closed afterwards."""
    made: list[Embedder] = []

    def make(before: Callable[[Pack], object]) -> Embedder:
        encoder: Any = StandInEncoder(before=before)
        opened = EmbedderArtifact.open(artifact)
        tokenizer = Tokenizer.open(opened.file("tokenizer"), None, None, None)
        made.append(Embedder(opened, tokenizer, encoder))
        return made[-1]

    yield make
    for embedder in made:
        embedder.close()


class Steps:
    """Does something on the thread that asked, in the first step that runs there."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.there = False

    def __call__(self, pack: Pack) -> None:
        if not self.there and threading.current_thread().name != "rbee-engine":
            self.there = True
            self.action()


def until_there(embedder: Embedder, steps: Steps) -> None:
    """Embed until a step ran on this thread: the engine's may still be on its way to rest."""
    for _ in range(10_000):
        embedder.embed(["abc"])
        if steps.there:
            return
    pytest.fail("no step ran on the caller's thread")


def test_its_thread_runs_the_step(make: MakeEmbedder) -> None:
    steps = Steps(lambda: None)
    until_there(make(steps), steps)


def test_who_comes_meanwhile_is_served(make: MakeEmbedder) -> None:
    gate = Gate()
    steps = Steps(lambda: gate(None))  # type: ignore[arg-type]
    embedder = make(steps)
    with ThreadPoolExecutor(1) as other:
        first = other.submit(until_there, embedder, steps)
        gate.reached()
        heard: queue.SimpleQueue[EmbeddingEvent] = queue.SimpleQueue()
        embedder.submit(EmbeddingRequest("second", ((1, 2),)), heard.put)
        assert embedder.status().slots_available == SLOTS - 2
        gate.open()
        first.result(30)
        heard.get(timeout=30)
        assert isinstance(heard.get(timeout=30), EmbeddingFinished)


def test_texts_beyond_its_pack_are_the_engine_s(make: MakeEmbedder) -> None:
    steps = Steps(lambda: None)
    embedder = make(steps)
    until_there(embedder, steps)
    texts = ["abc"] * 200
    np.testing.assert_array_equal(embedder.embed(texts), np.repeat(embedder.embed(["abc"]), 200, 0))


def test_an_interrupt_ends_nobody_else(make: MakeEmbedder) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    steps = Steps(interrupt)
    embedder = make(steps)
    with pytest.raises(KeyboardInterrupt):
        until_there(embedder, steps)
    assert np.isfinite(embedder.embed(["abc", "de"])).all()
    assert embedder.status().healthy


def test_a_device_that_is_lost_ends_all(make: MakeEmbedder) -> None:
    def lose() -> None:
        raise DeviceLost("gone")

    steps = Steps(lose)
    embedder = make(steps)
    with pytest.raises(DeviceLost, match="gone"):
        until_there(embedder, steps)
    with pytest.raises(EngineClosed, match="gone"):
        embedder.embed(["abc"])


def test_closing_waits_for_the_step(make: MakeEmbedder) -> None:
    gate = Gate()
    steps = Steps(lambda: gate(None))  # type: ignore[arg-type]
    embedder = make(steps)
    with ThreadPoolExecutor(2) as others:
        first = others.submit(until_there, embedder, steps)
        gate.reached()
        closing = others.submit(embedder.close)
        while embedder.status().healthy:
            threading.Event().wait(0.01)
        assert not closing.done()
        gate.open()
        first.result(30)
        closing.result(30)
