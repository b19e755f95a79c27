"""What a client is told of each thing the engine says."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from stand_in import finished

from rbee_runtime.errors import (
    DeadlineExceeded,
    EngineClosed,
    InferenceFailed,
    OutOfMemory,
    RuntimeFault,
)
from rbee_runtime.events import Event, Piece, Started, StopReason
from rbee_runtime.events import Failed as EngineFailed
from rbee_service.completion import CompletionTranslator
from rbee_service.events import End, Failed, InferenceEvent, Metrics, Narration, Output, TokenOutput
from rbee_service.narration import Narrator


@dataclass
class Told:
    now: float = 100.0
    events: list[InferenceEvent[TokenOutput]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.translator = CompletionTranslator(
            job_id="j",
            model="m",
            narrator=Narrator("a", job_id="j", correlation_id="c"),
            vram_bytes=lambda: 5,
            clock=lambda: self.now,
        )
        self.events += self.translator.open()

    def tell(self, event: Event, at: float | None = None) -> list[InferenceEvent[TokenOutput]]:
        self.now = self.now if at is None else at
        told = self.translator.translate(event)
        self.events += told
        return told

    def of(self, kind: type) -> list[InferenceEvent[TokenOutput]]:
        return [event for event in self.events if isinstance(event, kind)]


def test_metrics_come_once_a_second_at_most_and_once_before_the_end() -> None:
    told = Told()
    told.tell(Started(3, 7), at=101.0)
    # 100 tokens, one every 50 ms: four whole seconds pass after the first.
    for number in range(100):
        told.tell(Piece("x", number + 1), at=102.0 + number * 0.05)
    told.tell(finished(tokens=100, decode_seconds=4.95))
    metrics = told.of(Metrics)
    assert len(metrics) == 5
    assert all(m == Metrics(20.0, 5) for m in metrics)
    assert told.events[-2:] == [metrics[-1], told.of(End)[0]]


def test_a_first_piece_of_several_tokens_does_not_flatter_the_rate() -> None:
    told = Told()
    told.tell(Started(3, 7))
    told.tell(Piece("abc", 30), at=102.0)
    told.tell(Piece("d", 32), at=104.0)
    assert told.of(Metrics) == [Metrics(1.0, 5)]


@pytest.mark.parametrize(("count", "words"), [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens")])
def test_one_token_is_one(count: int, words: str) -> None:
    told = Told()
    told.tell(Started(count, 7))
    told.tell(finished(tokens=count))
    _, prompt, end = told.of(Narration)
    assert isinstance(prompt, Narration)
    assert isinstance(end, Narration)
    assert (prompt.target, prompt.human) == (words, f"Reading a prompt of {words}")
    assert end.target == words
    assert end.human.startswith(f"Generated {words} at ")


def test_an_empty_completion() -> None:
    told = Told()
    told.tell(Started(3, 7))
    told.tell(finished(tokens=0, decode_seconds=0.0))
    assert not told.of(Output)
    assert told.events[-2:] == [Metrics(0.0, 5), told.of(End)[0]]


@pytest.mark.parametrize("reason", list(StopReason))
def test_the_end_says_why(reason: StopReason) -> None:
    told = Told()
    *_, end = told.tell(finished(reason, 9, "stop" if "SEQ" in reason else None))
    assert isinstance(end, End)
    assert end.stop_reason == reason.value
    assert (end.items_out, end.decode_time_ms) == (9, 500)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (OutOfMemory("no memory"), "VRAM_OOM"),
        (InferenceFailed("a step failed"), "INFERENCE_FAILED"),
        (DeadlineExceeded("too late"), "TIMEOUT"),
        (EngineClosed("closed"), "INFERENCE_FAILED"),
    ],
)
def test_a_failure_says_why(fault: RuntimeFault, code: str) -> None:
    *_, failed = Told().tell(EngineFailed(fault))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.message) == (code, str(fault))


def test_every_narration_has_all_voices_and_no_text_of_the_client() -> None:
    told = Told()
    told.tell(Started(3, 7))
    told.tell(Piece("SECRET", 1))
    told.tell(finished())
    narrations = told.of(Narration)
    assert [n.action for n in narrations if isinstance(n, Narration)] == [
        "accept",
        "prefill",
        "decode",
        "complete",
    ]
    for narration in narrations:
        assert isinstance(narration, Narration)
        assert narration.human
        assert narration.cute
        assert narration.story
        assert (narration.correlation_id, narration.job_id) == ("c", "j")
        assert "SECRET" not in repr(narration)
