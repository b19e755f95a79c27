"""A stream on which nothing comes for a while shows that it lives, in every dialect."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from stand_in import MODEL, StandInEngine, endless, opened, ready, running

from rbee_runtime.events import Event, Started
from rbee_runtime.request import Request
from rbee_service.anthropic.events import PING
from rbee_service.http.connection import Limits
from rbee_service.sse import KEEP_ALIVE

ASKED: dict[str, dict[str, Any]] = {
    "/v1/inference": {"job_id": "j", "prompt": "x", "max_tokens": 4},
    "/v1/infer": {"prompt": "x", "stream": True},
    "/v1/completions": {"model": MODEL, "prompt": "x", "stream": True},
    "/v1/chat/completions": {
        "model": MODEL,
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
    },
    "/v1/messages": {
        "model": MODEL,
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 4,
        "stream": True,
    },
}
SILENCE = 0.05


def murmuring(_: Request) -> Iterator[Event]:
    """Tell again and again what only some dialects pass on."""
    for _ in itertools.repeat(None, 1000):
        time.sleep(SILENCE / 5)
        yield Started(3, 7)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        *((path, endless) for path in ASKED),
        # There it is no silence.
        *((path, murmuring) for path in ASKED if path != "/v1/inference"),
    ],
)
async def test_signs_of_life(
    tmp_path: Path, path: str, answer: Callable[[Request], Iterator[Event]]
) -> None:
    engine = StandInEngine(answer)
    async with (
        running(tmp_path, opened(engine), limits=Limits(silence_seconds=SILENCE)) as worker,
        httpx.AsyncClient(base_url=worker.url, timeout=10) as client,
    ):
        await ready(worker)
        read, sign = b"", PING if path == "/v1/messages" else KEEP_ALIVE
        async with client.stream("POST", path, json=ASKED[path]) as stream:
            async for chunk in stream.aiter_raw():
                read += chunk
                if read.count(sign) == 3:
                    engine.cancel(engine.submitted[0].request_id)
    *_, done, rest = read.split(b"\n\n")
    assert rest == b""
    assert done == b"data: [DONE]" or done.startswith(b"event: error\n")
    assert read.count(sign) >= 3
