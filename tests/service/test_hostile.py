"""Bytes that no well-meaning client sends: refused in JSON, and the next client is served."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from stand_in import StandInEngine, opened, ready, running
from structlog.testing import capture_logs

POST = b"POST /v1/inference HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"

REFUSED = {
    "no http": b"GARBAGE\r\n\r\n",
    "another version": b"GET / HTTP/9.9\r\n\r\n",
    "bytes in the path": b"GET /\xff HTTP/1.1\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\n\r\n",
    "an unknown method": b"FOO /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a way out": b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header in the path": b"GET /a%0d%0aX-Evil:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a broken header": GET + b"no colon\r\n\r\n",
    "an endless header": GET + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
    "a length that is none": POST + b"Content-Length: abc\r\n\r\n",
    "a negative length": POST + b"Content-Length: -5\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
    "broken chunks": POST + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n",
    "an unknown expectation": POST + b"Expect: x\r\nContent-Length: 2\r\n\r\n{}",
    "a body of nothing": POST + b"Content-Length: 0\r\n\r\n",
    "a body that is no text": POST + b"Content-Length: 2\r\n\r\n\xff\xff",
}

UNFINISHED = {
    "half a request line": b"POST /v1/inf",
    "half a body": POST + b"Content-Length: 100\r\n\r\n{",
    "half a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n50\r\n{",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nothing": b"",
}


@pytest.mark.parametrize("case", REFUSED)
async def test_refused(tmp_path: Path, case: str) -> None:
    async with running(tmp_path, opened(StandInEngine())) as worker:
        await ready(worker)
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(REFUSED[case])
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        headers = dict(
            line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
        )
        body = json.loads(await reader.readexactly(int(headers[b"content-length"])))
        writer.close()
        status = int(head.split()[1])
        assert 400 <= status < 500
        assert body.get("code") == "INVALID_REQUEST" or body["errors"]
        assert headers[b"content-type"] == b"application/json"
        assert b"x-evil" not in headers


@pytest.mark.parametrize("case", UNFINISHED)
async def test_left_in_the_middle(tmp_path: Path, case: str) -> None:
    """The worker says nothing, keeps nothing, and serves the next client."""
    engine = StandInEngine()
    with capture_logs() as logs:
        async with running(tmp_path, opened(engine)) as worker:
            await ready(worker)
            reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
            writer.write(UNFINISHED[case])
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            async with httpx.AsyncClient(base_url=worker.url) as client:
                answer = await client.post(
                    "/v1/inference", json={"job_id": "j", "prompt": "p", "max_tokens": 4}
                )
            assert answer.status_code == 200
    assert not [line for line in logs if line["log_level"] in {"warning", "error"}]
    assert len(engine.submitted) == 1
