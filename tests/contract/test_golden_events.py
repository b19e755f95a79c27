"""The bytes of every event, as clients were built against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from stand_in import StandInEngine, finished, golden, opened, ready, running, served, text
from stand_in_embedder import STREAM as EMBEDDING_STREAM
from stand_in_embedder import StandInEmbedder

from rbee_runtime.events import Piece, StopReason
from rbee_runtime.events import Started as EngineStarted
from rbee_service.events import (
    EmbeddingOutput,
    End,
    EventError,
    Failed,
    Metrics,
    Narration,
    Output,
    Started,
    TokenOutput,
)
from rbee_service.events import StopReason as EndReason
from rbee_service.sse import DONE, SseDialect, encode_event

SAME_IN_BOTH: list[tuple[Any, str]] = [
    (
        Started("job-1", "hf:org/name", "2025-01-31T12:00:00.000Z"),
        '{"type":"started","job_id":"job-1","model":"hf:org/name",'
        '"started_at":"2025-01-31T12:00:00.000Z"}',
    ),
    (
        Metrics(42.5, 536870912),
        '{"type":"metrics","tokens_per_sec":42.5,"vram_bytes":536870912}',
    ),
    (
        Narration("worker", "load", "model", "Loading"),
        '{"type":"narration","actor":"worker","action":"load","target":"model","human":"Loading"}',
    ),
    (
        Narration("a", "b", "c", "d", "e", "f", "g", "h"),
        '{"type":"narration","actor":"a","action":"b","target":"c","human":"d","cute":"e",'
        '"story":"f","correlation_id":"g","job_id":"h"}',
    ),
    (
        Narration("a", "b", "c", "d", job_id="h"),
        '{"type":"narration","actor":"a","action":"b","target":"c","human":"d","job_id":"h"}',
    ),
    (
        Failed(EventError.VRAM_OOM, "no memory"),
        '{"type":"error","code":"VRAM_OOM","message":"no memory"}',
    ),
    *(
        (Failed(code, ""), f'{{"type":"error","code":"{code.name}","message":""}}')
        for code in EventError
    ),
]

OUTPUTS: list[tuple[Any, str]] = [
    (TokenOutput("hello", 0), '"t":"hello","i":0}'),
    (TokenOutput("é 日本 🐝", 12), '"t":"é 日本 🐝","i":12}'),
    (TokenOutput('a"b\\c\n\r\t\x00/<', 1), '"t":"a\\"b\\\\c\\n\\r\\t\\u0000/<","i":1}'),
    (EmbeddingOutput((0.5, -1.0, 0.0), 3), '"embedding":[0.5,-1.0,0.0],"dim":3}'),
]

ENDS: list[tuple[End, str]] = [
    (
        End(100, 5000, EndReason.MAX_TOKENS),
        '":100,"decode_time_ms":5000,"stop_reason":"MAX_TOKENS"}',
    ),
    (
        End(7, 12, EndReason.STOP_SEQUENCE, "\n\n"),
        '":7,"decode_time_ms":12,"stop_reason":"STOP_SEQUENCE","stop_sequence_matched":"\\n\\n"}',
    ),
    *(
        (End(0, 0, reason), f'":0,"decode_time_ms":0,"stop_reason":"{reason.name}"}}')
        for reason in EndReason
    ),
]


def line(body: str) -> bytes:
    return f"data: {body}\n\n".encode()


@pytest.mark.parametrize("dialect", list(SseDialect))
@pytest.mark.parametrize(("event", "body"), SAME_IN_BOTH)
def test_events_that_both_dialects_share(event: Any, body: str, dialect: SseDialect) -> None:
    assert encode_event(event, dialect) == line(body)


@pytest.mark.parametrize(("output", "rest"), OUTPUTS)
def test_output(output: Any, rest: str) -> None:
    event = Output(output)
    assert encode_event(event, SseDialect.OUTPUT) == line('{"type":"output",' + rest)
    assert encode_event(event, SseDialect.TOKEN) == line('{"type":"token",' + rest)


@pytest.mark.parametrize(("end", "rest"), ENDS)
def test_end(end: End, rest: str) -> None:
    assert encode_event(end, SseDialect.OUTPUT) == line('{"type":"end","items_out' + rest)
    assert encode_event(end, SseDialect.TOKEN) == line('{"type":"end","tokens_out' + rest)


def test_done() -> None:
    assert DONE == b"data: [DONE]\n\n"


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="float"):
        encode_event(Metrics(float("nan"), 0), SseDialect.OUTPUT)


STREAM = """\
data: {"type":"started","job_id":"job-1","model":"hf:test/stand-in","started_at":"NOW"}

data: {"type":"output","t":"Bonjour ","i":0}

data: {"type":"output","t":"🐝","i":1}

data: {"type":"metrics","tokens_per_sec":2.0,"vram_bytes":536870912}

data: {"type":"end","items_out":2,"decode_time_ms":500,"stop_reason":"STOP_SEQUENCE",\
"stop_sequence_matched":"\\n"}

data: [DONE]

"""


def in_dialect(stream: str, dialect: str) -> str:
    if dialect == "token":
        return stream.replace('"output"', '"token"').replace("items_out", "tokens_out")
    return stream


DIALECTS: list[tuple[list[str], dict[str, str], str]] = [
    ([], {}, "output"),
    (["--sse-dialect", "token"], {}, "token"),
    ([], {"X-RBEE-SSE-Dialect": "token"}, "token"),
    (["--sse-dialect", "token"], {"X-RBEE-SSE-Dialect": "output"}, "output"),
]


@pytest.mark.parametrize(("flags", "headers", "dialect"), DIALECTS)
async def test_a_whole_stream(
    tmp_path: Path, flags: list[str], headers: dict[str, str], dialect: str
) -> None:
    events = [
        EngineStarted(3, 7),
        Piece("Bonjour ", 1),
        Piece("🐝", 2),
        finished(StopReason.STOP_SEQUENCE, 2, "\n"),
    ]
    engine = StandInEngine(lambda _: events)
    async with (
        running(tmp_path, opened(engine), *flags) as worker,
        httpx.AsyncClient(base_url=worker.url, headers=headers) as client,
    ):
        await ready(worker)
        answer = await client.post(
            "/v1/inference", json={"job_id": "job-1", "prompt": "Hi", "max_tokens": 4}
        )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert golden(answer.content.decode()) == in_dialect(STREAM, dialect)


@pytest.mark.parametrize(("flags", "headers", "dialect"), DIALECTS)
async def test_a_whole_stream_of_an_embedding_model(
    tmp_path: Path, flags: list[str], headers: dict[str, str], dialect: str
) -> None:
    async with served(tmp_path, StandInEmbedder(), *flags) as (client, _):
        asked = {"job_id": "job-1", "prompt": "Hello"}
        answer = await client.post("/v1/inference", json=asked, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert golden(answer.content.decode()) == in_dialect(EMBEDDING_STREAM, dialect)


async def test_the_order_of_a_stream(tmp_path: Path) -> None:
    engine = StandInEngine(lambda _: text(*"abcdefghij"))
    async with (
        running(tmp_path, opened(engine)) as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        await ready(worker)
        answer = await client.post(
            "/v1/inference", json={"job_id": "j", "prompt": "p", "max_tokens": 4}
        )
    events = answer.content.split(b"\n\n")
    assert events[0].startswith(b'data: {"type":"started",')
    assert events[-3].startswith(b'data: {"type":"end",')
    assert events[-2:] == [b"data: [DONE]", b""]
    assert (
        sum(e.startswith((b'data: {"type":"end"', b'data: {"type":"error"')) for e in events) == 1
    )
    outputs = [e for e in events if e.startswith(b'data: {"type":"output"')]
    assert outputs == [
        f'data: {{"type":"output","t":"{letter}","i":{number}}}'.encode()
        for number, letter in enumerate("abcdefghij")
    ]
