"""What a client says, and the token, are nowhere but in its answer; no route takes a huge body."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from stand_in import MODEL, StandInEngine, opened, running, served, text
from structlog.testing import capture_logs

PROMPT = "SECRET-OF-THE-PROMPT"
ANSWER = "SECRET-OF-THE-ANSWER"
TOKEN = "s3cret-token-of-the-worker"

CHAT = [{"role": "user", "content": PROMPT}]
POSTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/inference", {"job_id": "j", "prompt": PROMPT, "max_tokens": 4}),
    ("/v1/infer", {"prompt": PROMPT}),
    ("/v1/infer", {"prompt": PROMPT, "stream": True}),
    ("/v1/jobs", {"operation": "infer", "prompt": PROMPT, "max_tokens": 4}),
    ("/v1/completions", {"model": MODEL, "prompt": PROMPT}),
    ("/v1/completions", {"model": MODEL, "prompt": PROMPT, "stream": True}),
    ("/v1/chat/completions", {"model": MODEL, "messages": CHAT}),
    ("/v1/chat/completions", {"model": MODEL, "messages": CHAT, "stream": True}),
]
BROKEN: dict[str, Any] = {"max_tokens": -1, "stop": [PROMPT * 50], "user": PROMPT}


async def test_no_log_line_tells_what_was_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = StandInEngine(lambda _: text(ANSWER))
    environment = {"LLORCH_API_TOKEN": TOKEN}
    narrated = ""
    with capture_logs() as logs:
        async with (
            running(
                tmp_path, opened(engine), "--host", "127.0.0.1", environment=environment
            ) as worker,
            httpx.AsyncClient(
                base_url=worker.url, headers={"authorization": f"Bearer {TOKEN}"}
            ) as client,
        ):
            # The answer is over when loading is.
            await client.get("/v1/loading/progress")
            for path, body in POSTS:
                answer = await client.post(path, json=body)
                assert answer.status_code == 200
                if path == "/v1/jobs":
                    answer = await client.get(answer.json()["sse_url"])
                assert ANSWER in answer.text
                assert PROMPT not in answer.text
                narrated += "\n".join(
                    line for line in answer.text.splitlines() if '"narration"' in line
                )
                assert (await client.post(path, json=body | BROKEN)).status_code == 400
            exposed = (await client.get("/metrics")).text
    assert narrated
    assert len(logs) > len(POSTS)
    mine = [record for record in caplog.records if not record.name.startswith(("http", "asyncio"))]
    for told in (repr(logs), repr([record.getMessage() for record in mine]), narrated, exposed):
        assert PROMPT not in told
        assert ANSWER not in told
        assert TOKEN not in told


@pytest.mark.parametrize("path", sorted({path for path, _ in POSTS}))
async def test_no_route_takes_a_body_beyond_the_limit(tmp_path: Path, path: str) -> None:
    engine = StandInEngine()

    async def endless() -> Any:
        for _ in range(40):
            yield b" " * (1 << 16)

    async with served(tmp_path, engine) as (client, _):
        for content in (b" " * ((1 << 20) + 1), endless()):
            try:
                answer = await client.post(path, content=content)
            except (httpx.WriteError, httpx.ReadError):
                # Closed while the client still wrote: its system may drop the answer for that.
                continue
            assert answer.status_code == 413
        assert (await client.get("/health")).status_code == 200
    assert not engine.submitted
