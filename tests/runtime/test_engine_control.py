"""Waiting, cancelling, failing, closing: the engine over a backend whose steps a test controls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.collecting import Collector, submit, text_of
from support.stand_in_backend import Choose, Gate, StandInBackend, saying
from support.two_tokenizers import byte_level

import rbee_runtime.crank
import rbee_runtime.live
import rbee_runtime.loop
from rbee_runtime.artifact import Artifact
from rbee_runtime.engine import Engine
from rbee_runtime.errors import (
    DeadlineExceeded,
    EngineClosed,
    InferenceFailed,
    InvalidRequest,
    OutOfMemory,
    QueueFull,
)
from rbee_runtime.events import Failed, Finished, Piece, Started, StopReason
from rbee_runtime.request import GREEDY, Request
from rbee_runtime.step import PREFILL_CHUNK, Step
from rbee_runtime.watchdog import DEFAULT_STEP_LIMIT, Watchdog

PROMPT = [10, 11, 12]
LETTER = byte_level().encode("x")[0]
MakeEngine = Callable[..., tuple[Engine, StandInBackend]]


def always(token: int) -> Choose:
    return lambda held: token


def in_decode(step: Step) -> bool:
    return step.rows[0].past >= len(PROMPT)


@pytest.fixture
def make_engine(tiny_artifact: Any) -> Iterator[MakeEngine]:
    """``make_engine(choose, max_queue=..., **backend)``; all are closed afterwards."""
    made: list[Engine] = []

    def make(
        choose: Choose = always(LETTER),  # noqa: B008
        *,
        max_queue: int = 8,
        step_limit: float = DEFAULT_STEP_LIMIT,
        **options: Any,
    ) -> tuple[Engine, StandInBackend]:
        backend = StandInBackend(choose, **options)
        artifact = Artifact.open(tiny_artifact)
        engine = Engine(artifact, byte_level(), backend, max_queue, step_limit=step_limit)
        made.append(engine)
        return engine, backend

    yield make
    for engine in made:
        engine.close()


# Text


@pytest.mark.parametrize("text", ["naïve ☃ and 🚀🚀 done", "👩‍👩‍👧‍👦 你好，世界"])
def test_every_piece_is_made_of_whole_characters(text: str, make_engine: MakeEngine) -> None:
    said = byte_level().encode(text)
    assert len(said) > len(text) / 2
    engine, _ = make_engine(saying([*said, 2], PROMPT))
    events = submit(engine, Request("a", PROMPT, 200, GREEDY)).all()
    assert text_of(events) == text
    assert "\ufffd" not in text
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.completion_tokens) == (StopReason.EOS, len(said))
    pieces = [event for event in events if isinstance(event, Piece)]
    assert pieces[-1].tokens == len(said)


@pytest.mark.parametrize("end", [0, 2])
def test_every_end_of_text_id_ends_a_completion(end: int, make_engine: MakeEngine) -> None:
    engine, backend = make_engine(saying([LETTER, LETTER, end], PROMPT))
    text, finished = submit(engine, Request("a", PROMPT, 50, GREEDY)).finished()
    assert (text, finished.reason) == ("xx", StopReason.EOS)
    assert (finished.completion_tokens, finished.stop_sequence) == (2, None)
    assert len(backend.steps) == 3  # not one step more than needed


def test_a_stop_string_spread_over_tokens(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(saying(byte_level().encode("so far STOP beyond"), PROMPT))
    request = Request("a", PROMPT, 50, GREEDY, ("never", "STOP"))
    text, finished = submit(engine, request).finished()
    assert text == "so far "
    assert (finished.reason, finished.stop_sequence) == (StopReason.STOP_SEQUENCE, "STOP")


@pytest.mark.parametrize("count", [1, 2, 7])
def test_as_many_tokens_as_were_asked_for(count: int, make_engine: MakeEngine) -> None:
    engine, backend = make_engine()
    text, finished = submit(engine, Request("a", PROMPT, count, GREEDY)).finished()
    assert (text, finished.reason) == ("x" * count, StopReason.MAX_TOKENS)
    assert finished.completion_tokens == len(backend.steps) == count


# Waiting


def test_the_line_has_an_end(make_engine: MakeEngine) -> None:
    gate = Gate()
    engine, _ = make_engine(before=gate, max_queue=2)
    first = submit(engine, Request("first", PROMPT, 3, GREEDY))
    gate.reached()
    waiting = [submit(engine, Request(f"{n}", PROMPT, 3, GREEDY)) for n in range(2)]
    status = engine.status()
    assert (status.slots_available, status.queued) == (0, 2)
    with pytest.raises(QueueFull):
        submit(engine, Request("too many", PROMPT, 3, GREEDY))
    gate.open()
    for collector in (first, *waiting):
        assert collector.finished()[0] == "xxx"
    assert submit(engine, Request("too many", PROMPT, 3, GREEDY)).finished()[0] == "xxx"


def test_an_id_in_use_is_refused_and_free_again_afterwards(make_engine: MakeEngine) -> None:
    gate = Gate()
    engine, _ = make_engine(before=gate)
    first = submit(engine, Request("mine", PROMPT, 3, GREEDY))
    gate.reached()
    with pytest.raises(InvalidRequest, match="'mine' is already being served"):
        submit(engine, Request("mine", PROMPT, 2, GREEDY))
    gate.open()
    assert first.finished()[0] == "xxx"
    assert submit(engine, Request("mine", PROMPT, 2, GREEDY)).finished()[0] == "xx"


def test_many_callers_share_one_slot(make_engine: MakeEngine) -> None:
    # What is said follows from the prompt, so that answers cannot be swapped unnoticed.
    engine, _ = make_engine(lambda held: held[0], max_queue=64)
    letters = {byte_level().encode(letter)[0]: letter for letter in "abcdefgh"}
    results: dict[str, str] = {}

    def call(token: int) -> None:
        for number in range(5):
            name = f"{token}-{number}"
            collector = submit(engine, Request(name, [token, 9, 9], 12, GREEDY))
            results[name], _ = collector.finished()

    callers = [threading.Thread(target=call, args=(token,)) for token in letters]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert results == {
        f"{token}-{number}": letter * 12 for token, letter in letters.items() for number in range(5)
    }
    assert engine.status().slots_available == 1


# Cancelling


def test_cancelled_while_it_waits(make_engine: MakeEngine) -> None:
    gate = Gate()
    engine, _ = make_engine(before=gate)
    first = submit(engine, Request("first", PROMPT, 3, GREEDY))
    gate.reached()
    second = submit(engine, Request("second", PROMPT, 3, GREEDY))
    assert engine.cancel("second")
    gate.open()
    (end,) = second.all()
    assert isinstance(end, Finished)
    assert (end.reason, end.completion_tokens) == (StopReason.CANCELLED, 0)
    assert (end.prefill_seconds, end.decode_seconds) == (0.0, 0.0)
    assert first.finished()[0] == "xxx"
    assert not engine.cancel("second")


def test_cancelled_in_its_prefill(make_engine: MakeEngine) -> None:
    gate = Gate(lambda step: step.rows[0].past == PREFILL_CHUNK)
    engine, backend = make_engine(before=gate)
    collector = submit(engine, Request("a", [5] * (3 * PREFILL_CHUNK), 3, GREEDY))
    gate.reached()
    assert engine.cancel("a")
    gate.open()
    started, end = collector.all()
    assert isinstance(started, Started)
    assert isinstance(end, Finished)
    assert (end.reason, end.completion_tokens) == (StopReason.CANCELLED, 0)
    assert [step.rows[0].past for step in backend.steps] == [0, PREFILL_CHUNK]


def test_cancelled_in_its_decode(make_engine: MakeEngine) -> None:
    gate = Gate(lambda step: step.rows[0].past == len(PROMPT) + 3)
    engine, backend = make_engine(before=gate)
    collector = submit(engine, Request("a", PROMPT, 900, GREEDY))
    gate.reached()
    assert engine.cancel("a")
    gate.open()
    text, end = collector.finished()
    assert end.reason is StopReason.CANCELLED
    assert end.completion_tokens == 5  # the step that was under way counts
    assert text == "xxxxx"
    assert len(backend.steps) == 5
    assert submit(engine, Request("a", PROMPT, 2, GREEDY)).finished()[0] == "xx"


def test_text_held_back_comes_with_the_cancellation(make_engine: MakeEngine) -> None:
    said = byte_level().encode("a STO")
    gate = Gate(lambda step: step.rows[0].past == len(PROMPT) + len(said) - 1)
    engine, _ = make_engine(saying(said, PROMPT), before=gate)
    collector = submit(engine, Request("a", PROMPT, 900, GREEDY, ("STOP it",)))
    gate.reached()
    engine.cancel("a")
    gate.open()
    text, end = collector.finished()
    assert (text[:5], end.reason) == ("a STO", StopReason.CANCELLED)


def test_a_loop_left_early_frees_the_slot(make_engine: MakeEngine) -> None:
    gate = Gate(lambda step: step.rows[0].past == len(PROMPT) + 3)
    engine, backend = make_engine(before=gate)
    pieces = engine.generate("abc", max_tokens=900, sampling=GREEDY)
    assert next(pieces) == "x"
    pieces.close()  # type: ignore[attr-defined]
    gate.open()
    assert submit(engine, Request("next", PROMPT, 2, GREEDY)).finished()[0] == "xx"
    assert len(backend.steps) < 10


# Deadlines


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for room in (rbee_runtime.crank, rbee_runtime.loop, rbee_runtime.live):
        monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=clock))
    return clock


def test_a_deadline_passed_before_the_start(clock: Clock, make_engine: MakeEngine) -> None:
    engine, backend = make_engine()
    collector = submit(engine, Request("a", PROMPT, 3, GREEDY, deadline=clock.now))
    (end,) = collector.all()
    assert isinstance(end, Failed)
    assert isinstance(end.error, DeadlineExceeded)
    assert backend.steps == []


def test_a_deadline_passes_in_decode_and_in_the_line(clock: Clock, make_engine: MakeEngine) -> None:
    def late(step: Step) -> None:
        if step.rows[0].past == len(PROMPT) + 1:
            clock.now += 60.0

    engine, _ = make_engine(before=late)
    running = submit(engine, Request("a", PROMPT, 900, GREEDY, deadline=clock.now + 30))
    waiting = submit(engine, Request("b", PROMPT, 5, GREEDY, deadline=clock.now + 30))
    in_time = submit(engine, Request("c", PROMPT, 2, GREEDY, deadline=clock.now + 1e6))
    events = running.all()
    assert isinstance(events[0], Started)
    assert text_of(events) == "xxx"
    for failed in (events[-1], *waiting.all()):
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, DeadlineExceeded)
    assert in_time.finished()[0] == "xx"


def test_times_are_those_of_prefill_and_decode(clock: Clock, make_engine: MakeEngine) -> None:
    def tick(step: Step) -> None:
        clock.now += 0.5 if in_decode(step) else 4.0

    engine, _ = make_engine(before=tick)
    _, end = submit(engine, Request("a", PROMPT, 5, GREEDY)).finished()
    assert (end.prefill_seconds, end.decode_seconds) == (4.0, 2.0)
    assert end.tokens_per_second == 2.0
    _, one = submit(engine, Request("a", PROMPT, 1, GREEDY)).finished()
    assert one.tokens_per_second == 0.0


def test_a_long_prompt_takes_no_more_time_than_streams_can_spare(
    clock: Clock, make_engine: MakeEngine
) -> None:
    gate = Gate(in_decode)

    def spend(step: Step) -> None:
        gate(step)
        row = step.rows[0]
        prompt = len(step.rows) == 1 and row.past < 600 and row.length > 600
        clock.now += 0.001 * len(row.tokens) if prompt else 0.01

    engine, backend = make_engine(before=spend, slots=2)
    running = submit(engine, Request("running", PROMPT, 200, GREEDY))
    gate.reached()
    entering = submit(engine, Request("entering", [5] * 600, 2, GREEDY))
    gate.open()
    assert entering.finished()[0] == "xx"
    assert running.finished()[0] == "x" * 200
    chunks = [len(step.rows[0].tokens) for step in backend.steps if step.rows[0].length == 602]
    between = [size for size in chunks if size > 1][4:-1]
    assert between
    assert set(between) <= {19, 20}  # as long as two steps of the other


# Failing


@pytest.mark.parametrize("kind", [OutOfMemory, InferenceFailed])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_step_that_fails_ends_its_request_alone(
    kind: type[Exception], phase: str, make_engine: MakeEngine
) -> None:
    fault = kind("no room")

    def before(step: Step) -> None:
        # The bad one has as many positions as no other ever has at that time.
        wanted = 0 if phase == "prefill" else 203
        if any(row.past == wanted and row.length == 240 for row in step.rows):
            raise fault

    engine, _ = make_engine(before=before, slots=2)
    others = submit(engine, Request("good", PROMPT, 40, GREEDY))
    bad = submit(engine, Request("bad", [7] * 200, 40, GREEDY))
    after = submit(engine, Request("after", PROMPT, 3, GREEDY))
    assert bad.failed().error is fault
    assert others.finished()[0] == "x" * 40
    assert after.finished()[0] == "xxx"
    status = engine.status()
    assert (status.healthy, status.slots_available) == (True, 2)


def test_generate_raises_what_the_request_failed_with(make_engine: MakeEngine) -> None:
    def before(step: Step) -> None:
        raise OutOfMemory("no room")

    engine, _ = make_engine(before=before)
    with pytest.raises(OutOfMemory, match="no room"):
        list(engine.generate("abc"))


def test_logits_that_are_no_numbers_end_the_request_alone(make_engine: MakeEngine) -> None:
    engine, backend = make_engine()
    run = backend.run

    def broken(step: Step) -> Any:
        logits = run(step)
        if step.rows[0].tokens[0] == 7:
            logits[:] = np.nan
        return logits

    backend.run = broken  # type: ignore[method-assign]
    failed = submit(engine, Request("bad", [7], 5)).failed()
    assert isinstance(failed.error, InferenceFailed)
    assert submit(engine, Request("good", PROMPT, 3, GREEDY)).finished()[0] == "xxx"


def test_when_its_thread_dies_nobody_is_left_waiting(make_engine: MakeEngine) -> None:
    gate = Gate(in_decode)

    def before(step: Step) -> None:
        gate(step)
        if in_decode(step):
            raise ZeroDivisionError("a bug")

    engine, _ = make_engine(before=before)
    collectors = [submit(engine, Request(f"{n}", PROMPT, 9, GREEDY)) for n in range(3)]
    gate.reached()
    gate.open()
    for collector in collectors:
        failed = collector.failed()
        assert isinstance(failed.error, EngineClosed)
        assert "ZeroDivisionError: a bug" in str(failed.error)
    status = engine.status()
    assert not status.healthy
    assert status.fault is not None
    assert "ZeroDivisionError: a bug" in status.fault
    with pytest.raises(EngineClosed, match="a bug"):
        submit(engine, Request("late", PROMPT, 9, GREEDY))
    assert not engine.cancel("0")
    engine.close()


# Hanging


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_when_a_step_does_not_come_back_nobody_is_left_waiting(
    phase: str, make_engine: MakeEngine
) -> None:
    gate = Gate(lambda step: in_decode(step) == (phase == "decode"))
    threads: set[threading.Thread] = set()

    def before(step: Step) -> None:
        threads.add(threading.current_thread())
        gate(step)

    engine, _ = make_engine(before=before, step_limit=0.2)
    collectors = [submit(engine, Request(f"{n}", PROMPT, 9, GREEDY)) for n in range(3)]
    for collector in collectors:
        assert isinstance(collector.failed().error, EngineClosed)
    status = engine.status()
    assert status.fault is not None
    assert "has not come back within" in status.fault
    assert not status.healthy
    with pytest.raises(EngineClosed, match="has not come back"):
        submit(engine, Request("late", PROMPT, 9, GREEDY))
    # Its thread still hangs.
    engine.close()
    gate.open()
    (thread,) = threads
    thread.join(30)
    assert not thread.is_alive()
    # What came back after all was for nobody.
    assert [collector.left() for collector in collectors] == [0, 0, 0]


def test_an_engine_that_hangs_can_be_closed_from_a_sink(make_engine: MakeEngine) -> None:
    gate = Gate()
    engine, _ = make_engine(before=gate, step_limit=0.05)
    collector = Collector()

    def sink(event: Any) -> None:
        if isinstance(event, Failed):
            engine.close()
        collector(event)

    engine.submit(Request("a", PROMPT, 9, GREEDY), sink)
    assert isinstance(collector.failed().error, EngineClosed)
    gate.open()


def test_many_steps_are_not_one_that_hangs() -> None:
    """Together they take several times what one may, and of nothing one waits for ever."""
    reasons: list[str] = []
    watchdog = Watchdog(0.2, reasons.append)
    for _ in range(50):
        watchdog.begin(Step.of(0, 0, [1]))
        threading.Event().wait(0.01)
        assert watchdog.end()
    threading.Event().wait(0.4)
    watchdog.stop()
    assert reasons == []


def test_a_step_of_many_tokens_may_take_longer() -> None:
    reasons: list[str] = []
    watchdog = Watchdog(0.05, reasons.append)
    watchdog.begin(Step.of(0, 0, [1] * 128))
    while not watchdog.raised:
        threading.Event().wait(0.01)
    watchdog.stop()
    assert reasons == ["a step over 128 tokens has not come back within 0.15 s"]
    assert not watchdog.end()


# Closing


def test_closing_ends_what_runs_and_what_waits(make_engine: MakeEngine) -> None:
    gate = Gate(in_decode)
    engine, _ = make_engine(before=gate)
    running = submit(engine, Request("a", PROMPT, 900, GREEDY))
    waiting = submit(engine, Request("b", PROMPT, 900, GREEDY))
    gate.reached()
    closing = threading.Thread(target=engine.close)
    closing.start()
    while engine.status().healthy:
        closing.join(0.001)
    with pytest.raises(EngineClosed, match="has been closed"):
        submit(engine, Request("c", PROMPT, 900, GREEDY))
    gate.open()
    assert running.finished()[1].reason is StopReason.CANCELLED
    (end,) = waiting.all()
    assert isinstance(end, Finished)
    assert end.reason is StopReason.CANCELLED
    closing.join(30)
    assert not closing.is_alive()
    engine.close()


def test_it_can_be_closed_from_a_sink(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    collector = Collector()

    def sink(event: Any) -> None:
        if isinstance(event, Started):
            engine.close()
        collector(event)

    engine.submit(Request("a", PROMPT, 900, GREEDY), sink)
    assert collector.finished()[1].reason is StopReason.CANCELLED


def generated(engine: Engine) -> None:
    list(engine.generate("abc", max_tokens=900))


def generated_for_a_loop(engine: Engine) -> None:
    async def take() -> None:
        async for _ in engine.agenerate("abc", max_tokens=900):
            pass

    asyncio.run(take())


def completed(engine: Engine) -> None:
    engine.complete(["abc"], max_tokens=900)  # of two, one might be asked for too late


@pytest.mark.parametrize("ask", [generated, generated_for_a_loop, completed])
def test_who_wants_the_text_alone_is_told_that_it_is_cut_short(
    ask: Callable[[Engine], None], make_engine: MakeEngine
) -> None:
    gate = Gate(in_decode)
    engine, _ = make_engine(before=gate)
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(ask, engine)
        gate.reached()
        closing = threads.submit(engine.close)
        while engine.status().healthy:
            threading.Event().wait(0.001)
        gate.open()
        with pytest.raises(EngineClosed, match="was closed before the completion's end"):
            asked.result(30)
        closing.result(30)


# Many rows


def test_a_row_without_a_largest_logit_ends_alone(make_engine: MakeEngine) -> None:
    engine, backend = make_engine(slots=3)
    run = backend.run

    def broken(step: Step) -> Any:
        logits = run(step)
        for number, row in enumerate(step.rows):
            if row.length == 77 and row.past > 60:
                logits[number] = np.nan
        return logits

    backend.run = broken  # type: ignore[method-assign]
    good = [submit(engine, Request(f"{n}", PROMPT, 40, GREEDY)) for n in range(2)]
    bad = submit(engine, Request("bad", [7] * 57, 20, GREEDY))
    after = submit(engine, Request("after", PROMPT, 5, GREEDY))
    assert "not finite" in str(bad.failed().error)
    assert [one.finished()[0] for one in (*good, after)] == ["x" * 40, "x" * 40, "xxxxx"]


def test_rows_that_fail_only_together_all_go_on(make_engine: MakeEngine) -> None:
    def before(step: Step) -> None:
        if len(step.rows) > 2:
            raise OutOfMemory("no room for three")

    engine, _ = make_engine(before=before, slots=4)
    collectors = [submit(engine, Request(f"{n}", PROMPT, 9, GREEDY)) for n in range(4)]
    assert [one.finished()[0] for one in collectors] == ["x" * 9] * 4


def test_a_sink_that_fails_harms_nobody_else(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine, _ = make_engine(slots=2)

    def sink(event: object) -> None:
        if isinstance(event, Piece):
            raise ValueError("nobody home")

    good = submit(engine, Request("good", PROMPT, 50, GREEDY))
    engine.submit(Request("deaf", PROMPT, 900, GREEDY), sink)
    assert good.finished()[0] == "x" * 50
    assert submit(engine, Request("next", PROMPT, 50, GREEDY)).finished()[0] == "x" * 50
    assert engine.status().slots_available == 2
    assert "The sink of deaf failed" in caplog.text


def test_answers_do_not_get_mixed_up_when_rows_change_places(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(lambda held: held[0], slots=5, blocks=12, max_queue=64)
    letters = {byte_level().encode(letter)[0]: letter for letter in "abcdefgh"}
    collectors = {
        (token, count): submit(engine, Request(f"{token}-{count}", [token] * 40, count, GREEDY))
        for count in (1, 3, 30, 7, 60)
        for token in letters
    }
    for (token, count), collector in collectors.items():
        assert collector.finished()[0] == letters[token] * count
