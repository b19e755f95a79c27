"""Whatever the model says, a client that splits lines and reads JSON gets it back."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rbee_service.events import End, Narration, Output, StopReason, TokenOutput
from rbee_service.sse import DONE, KEEP_ALIVE, SseDialect, encode_event

dialects = st.sampled_from(SseDialect)
anything = st.text(st.characters(codec="utf-8"))


def strict_client(stream: bytes) -> list[Any]:
    """Read events as the strictest client does: blank lines between, one data line in each."""
    *events, rest = stream.split(b"\n\n")
    assert rest == b""
    bodies = []
    for event in events:
        assert b"\n" not in event
        assert b"\r" not in event
        assert event.startswith(b"data: ")
        bodies.append(event.removeprefix(b"data: ").decode("utf-8"))
    assert bodies.pop() == "[DONE]"
    return [json.loads(body) for body in bodies]


@given(st.lists(anything), dialects)
def test_any_text_survives(pieces: list[str], dialect: SseDialect) -> None:
    stream = b"".join(
        encode_event(Output(TokenOutput(piece, number)), dialect)
        for number, piece in enumerate(pieces)
    )
    kind = "token" if dialect is SseDialect.TOKEN else "output"
    assert strict_client(stream + DONE) == [
        {"type": kind, "t": piece, "i": number} for number, piece in enumerate(pieces)
    ]


@given(anything, anything, st.none() | anything, dialects)
def test_any_narration_survives(
    human: str, target: str, cute: str | None, dialect: SseDialect
) -> None:
    event = Narration("actor", "action", target, human, cute)
    told = {"type": "narration", "actor": "actor", "action": "action"}
    told |= {"target": target, "human": human}
    if cute is not None:
        told["cute"] = cute
    [read] = strict_client(encode_event(event, dialect) + DONE)
    assert read == told
    assert list(read) == list(told)


@given(st.integers(0, 2**31), st.sampled_from(StopReason), st.none() | anything, dialects)
def test_any_end_survives(
    count: int, reason: StopReason, stop: str | None, dialect: SseDialect
) -> None:
    [read] = strict_client(encode_event(End(count, 5, reason, stop), dialect) + DONE)
    counted = "tokens_out" if dialect is SseDialect.TOKEN else "items_out"
    assert read.pop("stop_sequence_matched", None) == stop
    assert read == {
        "type": "end",
        counted: count,
        "decode_time_ms": 5,
        "stop_reason": reason.value,
    }


def test_half_a_surrogate_pair_does_not_end_the_stream() -> None:
    stream = encode_event(Output(TokenOutput("a\ud83d", 0)), SseDialect.OUTPUT) + DONE
    assert strict_client(stream) == [{"type": "output", "t": "a?", "i": 0}]


def test_a_keep_alive_is_a_comment() -> None:
    assert KEEP_ALIVE.startswith(b":")
    assert KEEP_ALIVE.endswith(b"\n\n")
    assert KEEP_ALIVE.count(b"\n") == 2
