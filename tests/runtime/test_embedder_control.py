"""Waiting, cancelling, failing, closing: the embedder over packs that a test controls."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.makers import MakeArtifact, MakeEncoder
from support.stand_in_backend import Gate
from support.stand_in_encoder import StandInEncoder, vector_of

import rbee_runtime.crank
from rbee_runtime.artifact import EmbedderArtifact
from rbee_runtime.embedder import Embedder
from rbee_runtime.embedding.events import Embedded, EmbeddingEvent, EmbeddingFinished
from rbee_runtime.embedding.loop import SLOTS
from rbee_runtime.embedding.packer import Pack
from rbee_runtime.embedding.request import EmbeddingRequest
from rbee_runtime.errors import (
    DeadlineExceeded,
    DeviceLost,
    EngineClosed,
    InferenceFailed,
    InvalidRequest,
    OutOfMemory,
    QueueFull,
)
from rbee_runtime.events import Failed, StopReason
from rbee_runtime.tokenizer import Tokenizer
from rbee_runtime.watchdog import DEFAULT_STEP_LIMIT

SHORT = (5, 6, 7)
LONG = (9,) * 20
MakeEmbedder = Callable[..., tuple[Embedder, StandInEncoder]]


class Collector:
    """A sink that a test can wait on."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[EmbeddingEvent] = queue.SimpleQueue()

    def __call__(self, event: EmbeddingEvent) -> None:
        self._queue.put(event)

    def next(self) -> EmbeddingEvent:
        return self._queue.get(timeout=30)

    def all(self) -> tuple[list[Embedded], EmbeddingFinished | Failed]:
        """Wait for the end and return it after all vectors, whose order is checked."""
        vectors: list[Embedded] = []
        while isinstance(event := self.next(), Embedded):
            assert event.index == len(vectors)
            vectors.append(event)
        assert self._queue.empty(), "something came after the end"
        return vectors, event

    def finished(self) -> tuple[list[Embedded], EmbeddingFinished]:
        vectors, end = self.all()
        assert isinstance(end, EmbeddingFinished), end
        return vectors, end

    def failed(self) -> Failed:
        _, end = self.all()
        assert isinstance(end, Failed), end
        return end

    def left(self) -> int:
        return self._queue.qsize()


def submit(
    embedder: Embedder, name: str, *inputs: tuple[int, ...], deadline: float | None = None
) -> Collector:
    collector = Collector()
    embedder.submit(EmbeddingRequest(name, inputs, deadline), collector)
    return collector


@pytest.fixture(scope="module")
def artifact(make_encoder: MakeEncoder, make_embedder: MakeArtifact) -> Path:
    return make_embedder(make_encoder(), "fp32")


@pytest.fixture
def make(artifact: Path) -> Iterator[MakeEmbedder]:
    """``make(max_queue=..., **encoder)``; all are closed afterwards."""
    made: list[Embedder] = []

    def make(
        *, max_queue: int = 8, step_limit: float = DEFAULT_STEP_LIMIT, **options: Any
    ) -> tuple[Embedder, StandInEncoder]:
        encoder: Any = StandInEncoder(**options)
        opened = EmbedderArtifact.open(artifact)
        tokenizer = Tokenizer.open(opened.file("tokenizer"), None, None, None)
        embedder = Embedder(opened, tokenizer, encoder, max_queue, step_limit=step_limit)
        made.append(embedder)
        return embedder, encoder

    yield make
    for embedder in made:
        embedder.close()


def in_packs(encoder: StandInEncoder) -> list[list[str]]:
    return [[text.request_id for text in pack.texts] for pack in encoder.packs]


def test_every_input_gets_its_vector_in_order(make: MakeEmbedder) -> None:
    embedder, encoder = make()
    inputs = (SHORT, LONG, (1,), LONG, SHORT, (8, 8))
    vectors, end = submit(embedder, "a", *inputs).finished()
    for event, ids in zip(vectors, inputs, strict=True):
        np.testing.assert_array_equal(event.vector, vector_of(ids))
    assert (end.stop, end.tokens) == (StopReason.EOS, 49)
    assert end.seconds > 0
    assert [pack.tokens for pack in encoder.packs] == [24, 25]


# Waiting


def test_requests_share_packs_and_a_long_one_holds_nobody_up(make: MakeEmbedder) -> None:
    gate = Gate()
    embedder, encoder = make(before=gate)
    bulk = submit(embedder, "bulk", *[LONG] * 20)
    gate.reached()
    one, other = submit(embedder, "one", SHORT), submit(embedder, "other", (1, 2))
    assert (embedder.status().slots_available, embedder.status().queued) == (SLOTS - 3, 0)
    gate.open()
    for collector, ids in ((one, SHORT), (other, (1, 2))):
        (event,), _ = collector.finished()
        np.testing.assert_array_equal(event.vector, vector_of(ids))
    assert len(bulk.finished()[0]) == 20
    assert in_packs(encoder)[:3] == [["bulk"], ["other", "one", "bulk"], ["bulk"]]
    assert embedder.status().slots_available == SLOTS


def test_the_line_has_an_end(make: MakeEmbedder) -> None:
    gate = Gate()
    embedder, _ = make(before=gate, max_queue=2)
    waiting = [submit(embedder, f"{n}", SHORT) for n in range(SLOTS + 2)]
    status = embedder.status()
    assert (status.slots_total, status.slots_available, status.queued) == (SLOTS, 0, 2)
    assert status.queue_total == 2
    with pytest.raises(QueueFull, match=rf"\({SLOTS + 2}\)"):
        submit(embedder, "too many", SHORT)
    gate.open()
    for collector in waiting:
        collector.finished()
    submit(embedder, "too many", SHORT).finished()


def test_an_id_in_use_is_refused_and_free_again_afterwards(make: MakeEmbedder) -> None:
    gate = Gate()
    embedder, _ = make(before=gate)
    first = submit(embedder, "mine", SHORT)
    gate.reached()
    with pytest.raises(InvalidRequest, match="'mine' is already being served"):
        submit(embedder, "mine", SHORT)
    gate.open()
    first.finished()
    submit(embedder, "mine", SHORT).finished()


def test_many_callers(make: MakeEmbedder) -> None:
    embedder, _ = make()
    results: dict[int, bool] = {}

    def call(token: int) -> None:
        same = True
        for number in range(5):
            inputs = tuple((token,) * (1 + (token + i) % 9) for i in range(number * 4 + 1))
            vectors, _ = submit(embedder, f"{token}-{number}", *inputs).finished()
            pairs = zip(vectors, inputs, strict=True)
            same &= all((event.vector == vector_of(ids)).all() for event, ids in pairs)
        results[token] = same

    callers = [threading.Thread(target=call, args=(token,)) for token in range(10, 18)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert results == dict.fromkeys(range(10, 18), True)


# Cancelling


def test_cancelled_while_it_waits(make: MakeEmbedder) -> None:
    gate = Gate()
    embedder, encoder = make(before=gate)
    first = submit(embedder, "first", SHORT)
    gate.reached()
    second = submit(embedder, "second", SHORT)
    assert embedder.cancel("second")
    gate.open()
    vectors, end = second.finished()
    assert (vectors, end) == ([], EmbeddingFinished("second", 0, 0.0, StopReason.CANCELLED))
    first.finished()
    assert not embedder.cancel("second")
    assert in_packs(encoder) == [["first"]]


def test_cancelled_half_way(make: MakeEmbedder) -> None:
    gate = Gate()
    embedder, encoder = make(before=gate)
    collector = submit(embedder, "a", *[LONG] * 5)
    gate.reached()
    assert embedder.cancel("a")
    gate.open()
    vectors, end = collector.finished()
    assert len(vectors) == 1  # the step that was under way counts
    assert (end.stop, end.tokens) == (StopReason.CANCELLED, 20)
    submit(embedder, "a", SHORT).finished()
    assert len(encoder.packs) == 2


def test_a_loop_left_early_cancels(make: MakeEmbedder) -> None:
    gate = Gate(lambda pack: pack.texts[0].index == 3)
    embedder, encoder = make(before=gate)
    events = embedder.stream(EmbeddingRequest("a", (LONG,) * 2000))
    assert isinstance(next(events), Embedded)
    events.close()
    gate.open()
    submit(embedder, "next", SHORT).finished()
    assert len(encoder.packs) < 10


# Deadlines


def test_deadlines(make: MakeEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(rbee_runtime.crank, "time", clock)

    def late(pack: Pack) -> None:
        now[0] += 60.0

    embedder, encoder = make(before=late)
    passed = submit(embedder, "passed", SHORT, deadline=now[0])
    assert isinstance(passed.failed().error, DeadlineExceeded)
    assert encoder.packs == []
    running = submit(embedder, "running", *[LONG] * 9, deadline=now[0] + 30)
    vectors, end = running.all()
    assert len(vectors) == 1
    assert isinstance(end, Failed)
    assert isinstance(end.error, DeadlineExceeded)
    submit(embedder, "in time", SHORT, deadline=now[0] + 1e6).finished()


# Failing


@pytest.mark.parametrize("fault", [OutOfMemory("no room"), InferenceFailed("bad")])
def test_who_fails_alone_ends_alone(fault: Exception, make: MakeEmbedder) -> None:
    gate = Gate()

    def before(pack: Pack) -> None:
        gate(pack)
        if any(text.request_id == "bad" for text in pack.texts):
            raise fault

    embedder, encoder = make(before=before)
    first = submit(embedder, "first", SHORT)
    gate.reached()
    collectors = {n: submit(embedder, n, SHORT, SHORT) for n in ("good", "bad", "better")}
    gate.open()
    assert collectors["bad"].failed().error is fault
    for name in ("good", "better"):
        assert len(collectors[name].finished()[0]) == 2
    first.finished()
    assert len(encoder.packs) == 5
    assert embedder.status().slots_available == SLOTS


def test_vectors_that_are_no_numbers_end_the_request_alone(make: MakeEmbedder) -> None:
    gate = Gate()
    embedder, encoder = make(before=gate)
    run = encoder.run

    def broken(pack: Pack) -> Any:
        vectors = run(pack)
        vectors[[text.request_id == "bad" for text in pack.texts], 0] = np.nan
        return vectors

    encoder.run = broken  # type: ignore[method-assign]
    first = submit(embedder, "first", SHORT)
    gate.reached()
    good, bad = submit(embedder, "good", SHORT, SHORT), submit(embedder, "bad", SHORT)
    gate.open()
    failed = bad.failed().error
    assert isinstance(failed, InferenceFailed)
    assert "not finite" in str(failed)
    assert len(good.finished()[0]) == 2
    first.finished()


def test_a_device_that_is_lost_ends_all(make: MakeEmbedder) -> None:
    gate, lost = Gate(), DeviceLost("the GPU fell off the bus")

    def before(pack: Pack) -> None:
        gate(pack)
        raise lost

    embedder, _ = make(before=before)
    collectors = [submit(embedder, "first", SHORT)]
    gate.reached()
    collectors.append(submit(embedder, "second", SHORT))
    gate.open()
    for collector in collectors:
        assert collector.failed().error is lost
    status = embedder.status()
    assert not status.healthy
    assert "fell off the bus" in (status.fault or "")
    with pytest.raises(EngineClosed, match="fell off the bus"):
        submit(embedder, "late", SHORT)


def test_embed_raises_what_the_request_failed_with(make: MakeEmbedder) -> None:
    def before(pack: Pack) -> None:
        raise OutOfMemory("no room")

    embedder, _ = make(before=before)
    with pytest.raises(OutOfMemory, match="no room"):
        embedder.embed(["abc"])


def test_a_sink_that_fails_harms_nobody_else(make: MakeEmbedder) -> None:
    gate = Gate()
    embedder, encoder = make(before=gate)

    def sink(event: EmbeddingEvent) -> None:
        raise ZeroDivisionError("a bug")

    embedder.submit(EmbeddingRequest("deaf", (LONG,) * 50), sink)
    gate.reached()
    other = submit(embedder, "other", SHORT)
    gate.open()
    other.finished()
    submit(embedder, "deaf", SHORT).finished()
    assert len(encoder.packs) < 10


# Hanging


def test_when_a_pack_does_not_come_back_nobody_is_left_waiting(make: MakeEmbedder) -> None:
    gate = Gate()
    embedder, _ = make(before=gate, step_limit=0.2)
    collectors = [submit(embedder, f"{n}", SHORT) for n in range(3)]
    for collector in collectors:
        assert isinstance(collector.failed().error, EngineClosed)
    with pytest.raises(EngineClosed, match="has not come back"):
        submit(embedder, "late", SHORT)
    embedder.close()
    gate.open()
    assert [collector.left() for collector in collectors] == [0, 0, 0]


# Closing


def test_closing_ends_what_runs_and_what_waits(make: MakeEmbedder) -> None:
    gate = Gate()
    embedder, _ = make(before=gate)
    running = submit(embedder, "running", *[LONG] * 5)
    gate.reached()
    waiting = submit(embedder, "waiting", SHORT)
    closing = threading.Thread(target=embedder.close)
    closing.start()
    while embedder.status().healthy:
        threading.Event().wait(0.01)
    gate.open()
    closing.join(30)
    assert [len(c.finished()[0]) for c in (running, waiting)] == [1, 0]
    with pytest.raises(EngineClosed, match="has been closed"):
        submit(embedder, "late", SHORT)
    embedder.close()


def test_who_wants_all_vectors_is_told_that_some_are_missing(make: MakeEmbedder) -> None:
    gate = Gate()
    embedder, _ = make(before=gate)
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(embedder.embed, ["abc " * 20] * 5)
        gate.reached()
        closing = threads.submit(embedder.close)
        while embedder.status().healthy:
            threading.Event().wait(0.001)
        gate.open()
        with pytest.raises(EngineClosed, match="was closed before the last vector"):
            asked.result(30)
        closing.result(30)
