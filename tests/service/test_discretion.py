"""What a client says, and the token, are nowhere but in its answer; no route takes a huge body."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import started
from stand_in import MODEL, StandInEngine, opened, running, served, text
from stand_in_embedder import MODEL as EMBEDDING_MODEL
from stand_in_embedder import StandInEmbedder
from structlog.testing import capture_logs

from rbee_bench.hive_stand_in import Hive

PROMPT = "SECRET-OF-THE-PROMPT"
ANSWER = "SECRET-OF-THE-ANSWER"
VECTOR = "0.10000000149011612"
TOKEN = "s3cret-token-of-the-worker"

TALKATIVE = (sys.executable, str(Path(__file__).parent / "talkative_worker.py"))

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
    ("/v1/responses", {"model": MODEL, "input": PROMPT}),
    ("/v1/responses", {"model": MODEL, "input": CHAT, "stream": True}),
    ("/v1/messages", {"model": MODEL, "messages": CHAT, "max_tokens": 4}),
    ("/v1/messages", {"model": MODEL, "messages": CHAT, "max_tokens": 4, "stream": True}),
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


EMBEDS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"model": EMBEDDING_MODEL, "input": [PROMPT, PROMPT]}),
    ("/v1/inference", {"job_id": "j", "prompt": PROMPT}),
    ("/v1/jobs", {"operation": "infer", "prompt": PROMPT}),
]
FAULTY: dict[str, Any] = {"input": [PROMPT, 3], "prompt": "", "dimensions": PROMPT}


async def test_no_log_line_tells_what_was_embedded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor the vector, from which much of a text can be guessed."""
    caplog.set_level(logging.DEBUG)
    with capture_logs() as logs:
        async with served(tmp_path, StandInEmbedder()) as (client, _):
            for path, body in EMBEDS:
                answer = await client.post(path, json=body)
                if path == "/v1/jobs":
                    answer = await client.get(answer.json()["sse_url"])
                assert VECTOR in answer.text
                assert PROMPT not in answer.text
                refused = await client.post(path, json=body | FAULTY)
                assert refused.status_code == 400
                assert PROMPT not in refused.text
            exposed = (await client.get("/metrics")).text
    assert len(logs) > len(EMBEDS)
    mine = [record for record in caplog.records if not record.name.startswith(("http", "asyncio"))]
    for told in (repr(logs), repr([record.getMessage() for record in mine]), exposed):
        assert PROMPT not in told
        assert VECTOR not in told


SAID = {
    "prompt": PROMPT,
    "token": TOKEN,
    "wrong token": "WRONG-TOKEN-OF-SOMEBODY",
    "header": "SECRET-OF-A-HEADER",
    "cookie": "SECRET-OF-A-COOKIE",
    "query": "SECRET-OF-A-QUERY",
    "stop": "SECRET-STOP-STRING",
    "user": "SECRET-OF-A-USER",
    "unread": "SECRET-IN-NO-REQUEST",
}


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_talkative_worker_says_none_of_it(tiny_artifact: Path, style: str) -> None:
    """The program with a real model, every logger at debug, asked everything in every bad way."""
    headers = {
        "authorization": f"Bearer {TOKEN}",
        "cookie": f"session={SAID['cookie']}",
        "x-api-key": SAID["header"],
        "x-correlation-id": f"{SAID['header']} !",
    }
    wrong = {"authorization": f"Bearer {SAID['wrong token']}"}
    more = {"stop": [SAID["stop"]], "seed": 1, "max_tokens": 24}
    flags = ["--model", str(tiny_artifact), "--port", "0", "--host", "127.0.0.1"]
    flags += ["--model-ref", MODEL, "--backend", "cpu", "--worker-id", "talkative"]
    environment = {
        "LLORCH_API_TOKEN": TOKEN,
        "LLORCH_LOG_FORMAT": style,
        "PYTHONASYNCIODEBUG": "1",
        "PYTHONDEVMODE": "1",
    }
    generated: set[str] = set()
    with Hive() as hive:
        flags += ["--callback-url", f"{hive.url}/ready", "--hive-url", hive.url]
        with started(TALKATIVE, *flags, environment=environment) as worker:
            [report] = hive.wait_for("/ready", timeout=30.0)
            url, port = report.body["url"], report.body["port"]
            with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
                document = client.get("/docs/openapi.json").json()
                for path, methods in document["paths"].items():
                    for method in methods:
                        for sent in (headers, wrong):
                            place = path.replace("{job_id}", "x").replace("{model_id}", "x")
                            place += f"?q={SAID['query']}"
                            client.request(method, place, headers=sent, content=b"{}")
                for path, body in POSTS:
                    asked = body | more
                    if path == "/v1/responses":
                        asked["max_output_tokens"] = asked.pop("max_tokens")
                    if path == "/v1/messages":
                        asked["stop_sequences"] = asked.pop("stop")
                        del asked["seed"]
                    answer = client.post(path, json=asked)
                    assert answer.status_code == 200, answer.text
                    if path == "/v1/jobs":
                        answer = client.get(answer.json()["sse_url"])
                    generated.add(words(answer.text))
                    for broken in (
                        body | BROKEN | {"user": SAID["user"]},
                        body | {"prompt": PROMPT * 2000, "messages": CHAT * 500},
                    ):
                        assert client.post(path, json=broken).status_code == 400
                    unread = json.dumps(body).encode()[:-1] + SAID["unread"].encode()
                    assert client.post(path, content=unread).status_code == 400
                    with client.stream("POST", path, json=body | {"stream": True}):
                        pass
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(f"{SAID['unread']} / HTTP/1.1\r\nA {SAID['header']}\r\n\r\n".encode())
                assert raw.recv(4096).startswith(b"HTTP/1.1 4")
            worker.send(signal.SIGTERM)
            assert worker.exit_code() == 0
            log = worker.said()
    assert "Sampling begins" in log
    assert "receive_response_headers" in log  # the callback's, by a library at debug
    for name, secret in SAID.items():
        assert secret not in log, name
    generated.discard("")
    assert generated
    for said in generated:
        assert said not in log


def words(answer: str) -> str:
    """Return the longest string of an answer that only a model can have said."""
    texts = re.findall(r'"(?:text|content)":"((?:[^"\\]|\\.)*)"', answer)
    return max((json.loads(f'"{text}"') for text in texts if len(text) > 7), key=len, default="")


@pytest.mark.parametrize("path", sorted({path for path, _ in POSTS + EMBEDS}))
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
