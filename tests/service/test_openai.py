"""The OpenAI routes, asked by OpenAI's own client and byte for byte."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import structlog
from httpx_sse import aconnect_sse
from stand_in import (
    MODEL,
    Running,
    StandInEngine,
    endless,
    finished,
    opened,
    ready,
    running,
    served,
    text,
)
from structlog.testing import capture_logs

from rbee_runtime.errors import ContextOverflow, OutOfMemory, QueueFull
from rbee_runtime.events import Failed, Piece, Started, StopReason
from rbee_runtime.request import SamplingParams
from rbee_service.model_loader import load_model

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
CHAT: dict[str, Any] = {"model": MODEL, "messages": HELLO}
TEXT: dict[str, Any] = {"model": MODEL, "prompt": "Hello"}

CHAT_STREAM = """\
data: {"id":"ID","object":"chat.completion.chunk","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,\
"finish_reason":null}]}

data: {"id":"ID","object":"chat.completion.chunk","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}]}

data: {"id":"ID","object":"chat.completion.chunk","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"delta":{"content":" 🐝"},"logprobs":null,"finish_reason":null}]}

data: {"id":"ID","object":"chat.completion.chunk","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}

data: [DONE]

"""

TEXT_STREAM = """\
data: {"id":"ID","object":"text_completion","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"text":"Hello","logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"ID","object":"text_completion","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"text":" 🐝","logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"ID","object":"text_completion","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}],"usage":null}

data: {"id":"ID","object":"text_completion","created":NOW,"model":"hf:test/stand-in",\
"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,\
"prompt_tokens_details":{"cached_tokens":0}}}

data: [DONE]

"""


def golden(body: str) -> str:
    body = re.sub(r'"id":"(chat)?cmpl-[0-9a-f]{32}"', '"id":"ID"', body)
    return re.sub(r'"created":\d{10}', '"created":NOW', body)


@asynccontextmanager
async def asked(
    directory: Path, engine: StandInEngine, *flags: str
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with served(directory, engine, *flags) as (_, worker), client_of(worker) as client:
        yield client


def client_of(worker: Running, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{worker.url}/v1", api_key=key, max_retries=0, timeout=10)


async def test_a_chat(tmp_path: Path) -> None:
    end = replace(finished(), prompt_tokens=12, reused_tokens=8)
    engine = StandInEngine(lambda _: [Started(12, 7), Piece("Hi ", 1), Piece("there", 2), end])
    async with asked(tmp_path, engine) as client:
        answer = await client.chat.completions.create(
            model=MODEL,
            messages=[
                {"role": "developer", "content": "Be brief"},
                {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
            ],
        )
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Hi there")
    assert choice.finish_reason == "stop"
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert answer.usage is not None
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (12, 2, 14)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 8
    [request] = engine.submitted
    assert request.prompt == "system: Be brief\nuser: Hello\nassistant:"
    assert request.max_tokens is None
    assert request.sampling == SamplingParams()


PREDICTED: list[Any] = [
    "def area(side):",
    [{"type": "text", "text": "def area"}, {"type": "text", "text": "(side):"}],
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("content", PREDICTED, ids=["text", "parts"])
async def test_a_prediction(tmp_path: Path, content: Any, *, stream: bool) -> None:
    """What came of it is told, and only to who made one."""
    end = replace(finished(), drafted_tokens=9, accepted_tokens=7)
    engine = StandInEngine(lambda _: [Started(3, 7), Piece("Hi", 1), end])
    prediction: Any = {"type": "content", "content": content}
    asked_for: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
    async with asked(tmp_path, engine) as client:

        async def usage(**more: Any) -> Any:
            answer = await client.chat.completions.create(
                model=MODEL, messages=HELLO, stream=stream, **asked_for, **more
            )
            return [chunk async for chunk in answer][-1].usage if stream else answer.usage

        predicted, plain = await usage(prediction=prediction), await usage()
    details = predicted.completion_tokens_details
    assert details.accepted_prediction_tokens == 7
    assert details.rejected_prediction_tokens == 2
    assert plain.completion_tokens_details is None
    assert [one.prediction for one in engine.submitted] == ["def area(side):", ""]


@pytest.mark.parametrize(
    ("prediction", "param"),
    [
        ("def", "prediction"),
        ({"type": "content"}, "prediction.content"),
        ({"type": "diff", "content": "def"}, "prediction.type"),
        ({"type": "content", "content": "def", "tokens": 3}, "prediction.tokens"),
    ],
)
async def test_no_prediction(tmp_path: Path, prediction: Any, param: str) -> None:
    async with asked(tmp_path, StandInEngine()) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**CHAT, prediction=prediction)
    assert caught.value.param == param


async def test_a_streamed_chat(tmp_path: Path) -> None:
    async with asked(tmp_path, StandInEngine(lambda _: text("Hi ", "🐝"))) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(t or "" for t in texts) == "Hi 🐝"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].choices == []
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_text_whole_and_streamed(tmp_path: Path) -> None:
    engine = StandInEngine()
    async with asked(tmp_path, engine) as client:
        answer = await client.completions.create(model=MODEL, prompt="Say")
        stream = await client.completions.create(model=MODEL, prompt=[1, 2], stream=True)
        pieces = [chunk.choices[0].text async for chunk in stream]
    assert (answer.object, answer.choices[0].text) == ("text_completion", "Hello world")
    assert answer.usage is not None
    assert "".join(pieces) == "Hello world"
    first, second = engine.submitted
    assert (first.prompt, first.max_tokens) == ("Say", 16)
    assert second.prompt == [1, 2]


@pytest.mark.parametrize(
    ("path", "body", "stream"),
    [
        ("/v1/chat/completions", CHAT, CHAT_STREAM),
        ("/v1/completions", TEXT | {"stream_options": {"include_usage": True}}, TEXT_STREAM),
    ],
)
async def test_the_bytes_of_a_stream(
    tmp_path: Path, path: str, body: dict[str, Any], stream: str
) -> None:
    async with served(tmp_path, StandInEngine(lambda _: text("Hello", " 🐝"))) as (client, _):
        answer = await client.post(path, json=body | {"stream": True})
    assert answer.headers["content-type"] == "text/event-stream"
    assert golden(answer.content.decode()) == stream


async def test_the_bytes_of_whole_answers(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        chat = await client.post("/v1/chat/completions", json=CHAT)
        plain = await client.post("/v1/completions", json=TEXT)
    usage = (
        '"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,'
        '"prompt_tokens_details":{"cached_tokens":0}}}'
    )
    assert golden(chat.text) == (
        '{"id":"ID","object":"chat.completion","created":NOW,"model":"hf:test/stand-in",'
        '"choices":[{"index":0,"message":{"role":"assistant","content":"Hello world",'
        '"refusal":null},"logprobs":null,"finish_reason":"stop"}],' + usage
    )
    assert golden(plain.text) == (
        '{"id":"ID","object":"text_completion","created":NOW,"model":"hf:test/stand-in",'
        '"choices":[{"index":0,"text":"Hello world","logprobs":null,"finish_reason":"stop"}],'
        + usage
    )


async def test_a_stream_as_httpx_sse_reads_it(tmp_path: Path) -> None:
    body = CHAT | {"stream": True}
    async with (
        served(tmp_path, StandInEngine()) as (client, _),
        aconnect_sse(client, "POST", "/v1/chat/completions", json=body) as source,
    ):
        events = [event async for event in source.aiter_sse()]
    assert {event.event for event in events} == {"message"}
    assert events[-1].data == "[DONE]"
    told = [event.json()["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert "".join(told) == "Hello world"


async def test_models(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, worker):
        raw = await client.get("/v1/models")
        async with client_of(worker) as typed:
            models = [model async for model in typed.models.list()]
    assert [model.id for model in models] == [MODEL]
    assert golden(raw.text) == (
        '{"object":"list","data":[{"id":"hf:test/stand-in","object":"model","created":NOW,'
        '"owned_by":"rbee"}]}'
    )


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (StopReason.EOS, "stop"),
        (StopReason.STOP_SEQUENCE, "stop"),
        (StopReason.MAX_TOKENS, "length"),
    ],
)
async def test_the_finish_reason(tmp_path: Path, reason: StopReason, expected: str) -> None:
    engine = StandInEngine(lambda _: [Started(3, 7), Piece("x", 1), finished(reason, 1)])
    async with asked(tmp_path, engine) as client:
        whole = await client.chat.completions.create(model=MODEL, messages=HELLO)
        stream = await client.completions.create(model=MODEL, prompt="x", stream=True)
        *_, last = [chunk async for chunk in stream]
    assert whole.choices[0].finish_reason == last.choices[0].finish_reason == expected


async def test_the_engine_gets_what_was_asked_for(tmp_path: Path) -> None:
    engine = StandInEngine()
    async with asked(tmp_path, engine) as client:
        await client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            max_tokens=20,
            max_completion_tokens=10,
            temperature=0,
            top_p=0.5,
            frequency_penalty=-1,
            presence_penalty=1.5,
            logit_bias={"5": -100, "7": 3},
            stop="END",
            seed=-1,
            extra_body={"top_k": 10**20, "min_p": 0.1, "repetition_penalty": 1.5},
        )
        await client.completions.create(model=MODEL, prompt="x", stop=["a", "b"], seed=5)
    first, second = engine.submitted
    assert first.sampling == SamplingParams(
        repetition_penalty=1.5,
        frequency_penalty=-1.0,
        presence_penalty=1.5,
        logit_bias={5: -100.0, 7: 3.0},
        temperature=0.0,
        top_k=2**31 - 1,
        top_p=0.5,
        min_p=0.1,
        seed=2**64 - 1,
    )
    assert (first.max_tokens, first.stop) == (10, ("END",))
    assert (second.sampling.seed, second.stop) == (5, ("a", "b"))


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"n": 17}, "n", "invalid_value"),
    ({"n": True}, "n", "invalid_value"),
    ({"logprobs": "SECRET"}, "logprobs", "invalid_value"),
    ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
    ({"function_call": "auto"}, "function_call", "unsupported_parameter"),
    ({"user": 1}, "user", "invalid_value"),
    ({"service_tier": "flex"}, "service_tier", "invalid_value"),
    ({"prompt_cache_retention": "1h"}, "prompt_cache_retention", "invalid_value"),
    ({"metadata": {"SECRET": 1}}, "metadata", "invalid_value"),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "invalid_value"),
    ({"store": True}, "store", "unsupported_parameter"),
    ({"verbosity": "low"}, "verbosity", "unsupported_parameter"),
    ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"),
    ({"temprature": 1}, "temprature", "unknown_parameter"),
    ({"str": 1}, "str", "unknown_parameter"),
    ({"temperature": 2.5}, "temperature", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
    ({"stop": ["a"] * 5}, "stop", "invalid_value"),
    ({"stop": ""}, "stop[0]", "invalid_value"),
    ({"stream": 1}, "stream", "invalid_value"),
    ({"stream_options": {}}, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
]


@pytest.mark.parametrize("refused", REFUSED)
@pytest.mark.parametrize(("path", "good"), [("chat/completions", CHAT), ("completions", TEXT)])
async def test_nothing_is_ignored(
    tmp_path: Path,
    path: str,
    good: dict[str, Any],
    refused: tuple[dict[str, Any], str, str],
) -> None:
    changed, param, code = refused
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post(f"/v1/{path}", json=good | changed)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert param in error["message"]
    assert not engine.submitted


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"messages": []}, "messages must have at least 1 item"),
        ({"messages": [{"role": "SECRET", "content": 3}]}, "developer, user, assistant or tool"),
        ({"temperature": 2.5}, "temperature must be at most 2.0"),
        ({"stop": ["", "x" * 101]}, "stop[0] must have at least 1 character; stop[1] must have at"),
        ({"stop": 5}, "stop: it must be a string or an array of strings"),
        ({"stream": "SECRET"}, "stream must be a boolean"),
        ({"logit_bias": {"SECRET": 1}}, "every name in logit_bias must be a token id"),
        ({"logit_bias": {"12": 101}}, "every value in logit_bias must be at most 100.0"),
    ],
)
async def test_faults_are_told_in_plain_words(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        answer = await client.post("/v1/chat/completions", json=CHAT | changed)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert not re.search(r"SECRET|12|Input|should", answer.text)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "prompt must have at least 1 character"),
        ([], "prompt must have at least 1 item"),
        ([""], "prompt must have at least 1 character"),
        ([1, "a"], "prompt[1] must be an integer"),
        ([[1, -1]], "prompt[1] must be at least 0"),
        ([1.5], "prompt[0] must be an integer"),
        ({}, "prompt: it must be a string or an array of token ids"),
        (5, "prompt: it must be a string or an array of token ids"),
        (["a", "b"], "prompt: only one prompt is served at a time"),
    ],
)
async def test_what_is_no_prompt(tmp_path: Path, prompt: Any, message: str) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        answer = await client.post("/v1/completions", json=TEXT | {"prompt": prompt})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == message
    assert answer.json()["error"]["param"] == message.partition(" ")[0].rstrip(":")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("Hello", "messages"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "function", "content": "x"}], "messages[0].role"),
        ([*HELLO, {"role": "user"}], "messages[1].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content"),
        ([{"role": "user", "content": "x", "name": "a b"}], "messages[0].name"),
        ([{"role": "user", "content": "x", "name": "n" * 65}], "messages[0].name"),
        ([{"role": "user", "content": "x", "reasoning": "y"}], "messages[0].reasoning"),
        ([{"role": "assistant"}], "messages[0]"),
        ([{"role": "user", "content": "x", "tool_calls": [{}]}], "messages[0].tool_calls"),
        ([{"role": "user", "content": "REFUSE"}], "messages"),
    ],
)
async def test_messages_that_are_not_served(tmp_path: Path, messages: Any, param: str) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        answer = await client.post("/v1/chat/completions", json=CHAT | {"messages": messages})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_what_changes_nothing_may_be_said(tmp_path: Path) -> None:
    neutral = {
        "n": 1,
        "user": "somebody",
        "safety_identifier": "somebody",
        "prompt_cache_key": "a chat",
        "prompt_cache_retention": "24h",
        "metadata": {"run": "7"},
        "service_tier": "auto",
        "tools": [],
        "tool_choice": "none",
        "logprobs": None,
        "top_logprobs": 0,
        "store": False,
        "response_format": {"type": "text"},
        "stop": None,
        "max_tokens": None,
    }
    async with served(tmp_path, StandInEngine()) as (client, _):
        for path, good in (("chat/completions", CHAT), ("completions", TEXT)):
            assert (await client.post(f"/v1/{path}", json=good | neutral)).status_code == 200


async def test_what_was_sent_is_not_repeated(tmp_path: Path) -> None:
    secret = "SECRET-OF-THE-CLIENT"
    async with served(tmp_path, StandInEngine()) as (client, _):
        for body in (
            CHAT | {"messages": [{"role": secret, "content": [secret]}], "stop": [secret * 9]},
            TEXT | {"prompt": [1, secret], "temperature": secret},
        ):
            path = "chat/completions" if "messages" in body else "completions"
            answer = await client.post(f"/v1/{path}", json=body)
            assert answer.status_code == 400
            assert secret not in answer.text
        many = await client.post("/v1/completions", json={f"x{i}": i for i in range(9999)})
        assert many.status_code == 400
        assert len(many.content) < 2000


async def test_one_model(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, worker):
        async with client_of(worker) as api:
            found = await api.models.retrieve(MODEL)
            assert (found.id, found.owned_by) == (MODEL, "rbee")
            assert found == (await api.models.list()).data[0]
            with pytest.raises(openai.NotFoundError) as caught:
                await api.models.retrieve("gpt-4")
            assert caught.value.code == "model_not_found"
        for spelling in (MODEL, MODEL.replace("/", "%2F"), MODEL.replace(":", "%3A")):
            assert (await client.get(f"/v1/models/{spelling}")).json()["id"] == MODEL


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models/gpt-4", 405),
        ("GET", "/v1/chat/completions/chatcmpl-1/messages", 404),
        ("POST", "/v1/chat", 404),
        ("POST", "/v1/completions/more", 404),
        ("GET", "/v1/models/gpt-4", 404),
        ("GET", "/v1/responses", 405),
        ("GET", "/v1/responses/resp_1", 404),
    ],
)
async def test_what_is_not_there_is_told_as_openai_tells_it(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        answer = await client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_request_ids(tmp_path: Path) -> None:
    with capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        async with served(tmp_path, StandInEngine()) as (client, worker):
            for sent in ("run-7/{step}", "~" * 128, "x" * 129, "two words", "é", None):
                headers = {} if sent is None else {"X-Request-ID": sent.encode()}
                answers = [
                    await client.post("/v1/chat/completions", json=CHAT, headers=headers),
                    await client.post(
                        "/v1/completions", json=TEXT | {"stream": True}, headers=headers
                    ),
                    await client.post("/v1/chat/completions", json={}, headers=headers),
                    await client.post("/v1/embeddings", json={}, headers=headers),
                    await client.get("/v1/models", headers=headers),
                    await client.get("/v1/chat/nowhere", headers=headers),
                ]
                ids = [answer.headers["x-request-id"] for answer in answers]
                if sent in ("run-7/{step}", "~" * 128):
                    assert set(ids) == {sent}
                else:
                    assert sent not in ids
                    assert len(set(ids)) == len(ids)
                told = {one.get("request_id") for one in logs if one["event"] == "Sampling begins"}
                assert told >= set(ids[:2])
            assert "x-request-id" not in (await client.get("/health")).headers
            async with client_of(worker) as api:
                assert (await api.chat.completions.create(**CHAT))._request_id


async def test_errors_as_the_client_raises_them(tmp_path: Path) -> None:
    engine = StandInEngine()
    async with asked(tmp_path, engine) as client:

        def ask(model: str = MODEL) -> Any:
            return client.chat.completions.create(model=model, messages=HELLO)

        with pytest.raises(openai.NotFoundError) as unknown:
            await ask("gpt-4o")
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        engine.refusal = ContextOverflow(3000, 1, 2048)
        with pytest.raises(openai.BadRequestError) as long:
            await ask()
        assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
        assert "3000" in long.value.message
        with pytest.raises(openai.BadRequestError) as long:
            await client.completions.create(model=MODEL, prompt="x")
        assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")
        engine.refusal = QueueFull("the queue is full")
        with pytest.raises(openai.InternalServerError) as full:
            await ask()
        assert full.value.status_code == 503
        assert full.value.response.headers["retry-after"] == "1"
        assert full.value.type == "server_error"
        engine.refusal = None
        engine.answer = lambda _: [Started(3, 7), Piece("x", 1), Failed(OutOfMemory("no memory"))]
        with pytest.raises(openai.InternalServerError) as failed:
            await ask()
        assert failed.value.status_code == 507
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="no memory"):
            [chunk async for chunk in stream]


async def test_a_token_that_is_missing_or_wrong(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret")
    flags = ("--api-token-file", str(secret), "--host", "127.0.0.1")
    async with served_with_token(tmp_path, flags) as (worker, plain):
        async with client_of(worker, "wrong") as client:
            with pytest.raises(openai.AuthenticationError) as wrong:
                await client.models.list()
        assert wrong.value.code == "INVALID_API_KEY"
        async with client_of(worker, "s3cret") as client:
            assert [model.id async for model in client.models.list()] == [MODEL]
        missing = (await plain.get("/v1/models")).json()["error"]
        assert list(missing) == ["message", "type", "param", "code"]
        assert missing["code"] == "MISSING_API_KEY"


@asynccontextmanager
async def served_with_token(
    directory: Path, flags: tuple[str, ...]
) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    async with (
        running(directory, opened(StandInEngine()), *flags) as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        # The answer is over when loading is.
        await client.get("/v1/loading/progress", headers={"authorization": "Bearer s3cret"})
        yield worker, client


async def test_a_client_that_stops_reading_frees_the_slot(tmp_path: Path) -> None:
    engine = StandInEngine(endless)
    async with asked(tmp_path, engine) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        assert (await anext(aiter(stream))).choices[0].delta.role == "assistant"
        await stream.close()
        await engine.wait(lambda: engine.live == 0 and len(engine.cancelled) == 1)


async def test_a_worker_that_stops_does_not_pass_for_a_finished_answer(tmp_path: Path) -> None:
    engine = StandInEngine(endless)
    async with served(tmp_path, engine) as (client, worker):
        whole = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
        streamed = asyncio.create_task(client.post("/v1/completions", json=TEXT | {"stream": True}))
        asked = {"model": MODEL, "input": "Hello", "stream": True}
        responding = asyncio.create_task(client.post("/v1/responses", json=asked))
        await engine.wait(lambda: engine.live == 3)
        worker.worker.stop()
        refused, stream, response = await whole, await streamed, await responding
    assert refused.status_code == 503
    assert refused.json()["error"]["type"] == "server_error"
    *_, last, done, rest = stream.content.split(b"\n\n")
    assert last == (
        b'data: {"error":{"message":"the request was cancelled","type":"server_error",'
        b'"param":null,"code":"insufficient_resources"}}'
    )
    assert (done, rest) == (b"data: [DONE]", b"")
    *_, failed, rest = response.content.split(b"\n\n")
    assert failed.startswith(b"event: response.failed\n")
    assert b'"error":{"code":"server_error","message":"the request was cancelled"}' in failed
    assert rest == b""


async def test_a_model_that_is_real(tmp_path: Path, tiny_artifact: Path) -> None:
    flags = ("--model", str(tiny_artifact), "--model-ref", "tiny", "--slots", "2")
    asking: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 8}
    async with running(tmp_path, load_model, *flags) as worker:
        await ready(worker)
        async with client_of(worker) as client:
            first = await client.chat.completions.create(**asking, seed=3)
            again = await client.chat.completions.create(**asking, seed=3)
            stream = await client.chat.completions.create(**asking, seed=3, stream=True)
            pieces = [c.choices[0].delta.content or "" async for c in stream]
            with pytest.raises(openai.BadRequestError) as outside:
                await client.completions.create(
                    model="tiny", prompt="x", logit_bias={"999999999": 1}
                )
            forced = await client.completions.create(
                model="tiny", prompt="x", logit_bias={"70": 100}, temperature=0, max_tokens=4
            )
    assert first.choices[0].message.content == again.choices[0].message.content == "".join(pieces)
    assert first.usage is not None
    assert first.usage.completion_tokens == 8
    assert first.choices[0].finish_reason == "length"
    assert outside.value.param == "logit_bias"
    assert len(set(forced.choices[0].text)) == 1
