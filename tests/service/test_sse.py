"""Whatever the model says, a client that splits lines and reads JSON gets it back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import httpx
from httpx_sse import EventSource, ServerSentEvent
from hypothesis import given
from hypothesis import strategies as st

from rbee_service.events import (
    EmbeddingOutput,
    End,
    EventError,
    Failed,
    Metrics,
    Narration,
    Output,
    Started,
    StopReason,
    TokenOutput,
)
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


numbers = st.floats(allow_nan=False, allow_infinity=False)
voices = st.none() | anything
events = st.one_of(
    st.builds(Started, anything, anything, anything),
    st.builds(Output, st.builds(TokenOutput, anything, st.integers(0))),
    st.builds(Output, st.builds(EmbeddingOutput, st.lists(numbers).map(tuple), st.integers(0))),
    st.builds(Metrics, numbers, st.integers(0, 2**63)),
    st.builds(Narration, anything, anything, anything, anything, voices, voices, voices, voices),
    st.builds(End, st.integers(0), st.integers(0), st.sampled_from(StopReason), voices),
    st.builds(Failed, st.sampled_from(EventError), anything),
)


@given(st.lists(events), dialects, st.data())
def test_any_stream_survives_however_it_arrives(
    told: list[Any], dialect: SseDialect, data: st.DataObject
) -> None:
    """Every event comes back as its members, never null, whatever the network cut in two."""
    stream = b"".join(encode_event(event, dialect) for event in told) + DONE
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
    read = [json.loads(sse.data) for sse in sse_events(pieces) if sse.data != "[DONE]"]
    assert read == strict_client(stream)
    assert len(read) == len(told)
    for event, members in zip(told, read, strict=True):
        held = asdict(event.output if isinstance(event, Output) else event)
        held = {name: value for name, value in held.items() if value is not None}
        if isinstance(event, End) and dialect is SseDialect.TOKEN:
            held = {{"items_out": "tokens_out"}.get(k, k): v for k, v in held.items()}
        assert list(members) == ["type", *held]
        assert members == {"type": members["type"]} | json.loads(json.dumps(held))


def sse_events(pieces: list[bytes]) -> Iterator[ServerSentEvent]:
    """Read events as httpx-sse does, from an answer that comes in pieces."""
    answer = httpx.Response(
        200, headers={"content-type": "text/event-stream"}, stream=Pieces(pieces)
    )
    return EventSource(answer).iter_sse()


class Pieces(httpx.SyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


def test_half_a_surrogate_pair_does_not_end_the_stream() -> None:
    stream = encode_event(Output(TokenOutput("a\ud83d", 0)), SseDialect.OUTPUT) + DONE
    assert strict_client(stream) == [{"type": "output", "t": "a?", "i": 0}]


def test_a_keep_alive_is_a_comment() -> None:
    assert KEEP_ALIVE.startswith(b":")
    assert KEEP_ALIVE.endswith(b"\n\n")
    assert KEEP_ALIVE.count(b"\n") == 2
