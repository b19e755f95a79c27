"""Log probabilities as OpenAI's own client reads them, of a real model and of a stand-in."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob
from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from stand_in import MODEL, StandInEngine, finished, ready, running, served
from support.openai_client import asked_of
from support.two_tokenizers import byte_fallback, byte_level

from rbee_runtime.events import Event, Piece, Started, StopReason
from rbee_runtime.logprobs import TokenLogprob, TokenLogprobs
from rbee_service.model_loader import load_model
from rbee_service.openai.logprobs import ChatLogprobsTeller, TextLogprobsTeller
from rbee_service.openai.logprobs_fields import ChatLogprobsFields
from rbee_service.openai.unserved import Part

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
CHAT: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 40}
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "Zwölf 🙂", "max_tokens": 40}
# Every character of more than a byte comes in several tokens, and some never become whole.
BYTES: dict[str, Any] = {"logit_bias": {str(3 + byte): 4.0 for byte in "🙂é".encode()}}


@pytest.fixture
async def client(tmp_path: Path, tiny_artifact: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    async with asked_of(tiny_artifact, tmp_path) as client:
        yield client


def spelled(tokens: Iterable[ChatCompletionTokenLogprob]) -> str:
    return b"".join(bytes(token.bytes or []) for token in tokens).decode(errors="replace")


@pytest.mark.parametrize("more", [{}, BYTES], ids=["any", "bytes"])
async def test_a_chat(client: openai.AsyncOpenAI, more: dict[str, Any]) -> None:
    for seed in range(4):
        answer = await client.chat.completions.create(
            **CHAT, **more, seed=seed, logprobs=True, top_logprobs=3
        )
        [choice] = answer.choices
        assert choice.logprobs is not None
        assert choice.logprobs.refusal is None
        tokens = choice.logprobs.content
        assert tokens is not None
        assert answer.usage is not None
        assert len(tokens) == answer.usage.completion_tokens
        assert spelled(tokens) == choice.message.content
        for token in tokens:
            assert token.logprob <= 0.0
            assert len(token.top_logprobs) == 3
            top = [other.logprob for other in token.top_logprobs]
            assert top == sorted(top, reverse=True)
            assert sum(map(math.exp, top)) <= 1.0 + 1e-6
            assert top[0] >= token.logprob


@pytest.mark.parametrize("more", [{}, BYTES], ids=["any", "bytes"])
async def test_a_streamed_chat_has_what_the_whole_has(
    client: openai.AsyncOpenAI, more: dict[str, Any]
) -> None:
    for seed in range(4):
        asking = {**CHAT, **more, "seed": seed, "logprobs": True, "top_logprobs": 2}
        whole = await client.chat.completions.create(**asking)
        text, told = "", list[ChatCompletionTokenLogprob]()
        async for chunk in await client.chat.completions.create(**asking, stream=True):
            [choice] = chunk.choices
            said = choice.delta.content or ""
            if choice.logprobs is None:
                assert not said
                continue
            assert choice.logprobs.content
            told += choice.logprobs.content
            text += said
            # Never more than the tokens told of account for.
            assert spelled(told).startswith(text.rstrip("\ufffd"))
        assert text == whole.choices[0].message.content
        assert whole.choices[0].logprobs is not None
        assert told == whole.choices[0].logprobs.content


@pytest.mark.parametrize("more", [{}, BYTES], ids=["any", "bytes"])
async def test_a_text_whole_and_streamed(client: openai.AsyncOpenAI, more: dict[str, Any]) -> None:
    for seed in range(4):
        asking = {**TEXT, **more, "seed": seed, "logprobs": 2}
        answer = await client.completions.create(**asking)
        [choice] = answer.choices
        logprobs = choice.logprobs
        assert logprobs is not None
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        arrays = {name: getattr(logprobs, name) for name in names}
        assert answer.usage is not None
        assert {len(array) for array in arrays.values()} == {answer.usage.completion_tokens}
        for token, logprob, others in zip(
            arrays["tokens"], arrays["token_logprobs"], arrays["top_logprobs"], strict=True
        ):
            assert others[token] == logprob
            assert 2 <= len(others) <= 3
        bounds = [*arrays["text_offset"], len(choice.text)]
        for token, (start, stop) in zip(arrays["tokens"], pairwise(bounds), strict=True):
            whole = "" if token.startswith("<|") else token.partition("\\x")[0]
            assert choice.text[start:stop].rstrip("\ufffd") == whole or not whole
        text, told = "", {name: [] for name in names}
        async for chunk in await client.completions.create(**asking, stream=True):
            text += chunk.choices[0].text
            if chunk.choices[0].logprobs is not None:
                for name in names:
                    told[name] += getattr(chunk.choices[0].logprobs, name)
        assert (text, told) == (choice.text, arrays)


async def test_a_stop_string(client: openai.AsyncOpenAI) -> None:
    asking = CHAT | {"logprobs": True, "seed": 3}
    free = (await client.chat.completions.create(**asking)).choices[0]
    said = free.message.content or ""
    for stop in (said[5:8], said[1:2]):
        [cut] = (await client.chat.completions.create(**asking, stop=stop)).choices
        assert cut.message.content == said.partition(stop)[0]
        assert cut.logprobs is not None
        assert free.logprobs is not None
        assert (
            cut.logprobs.content == (free.logprobs.content or [])[: len(cut.logprobs.content or [])]
        )
        # The last may have begun the stop string, too.
        assert spelled(cut.logprobs.content or []).startswith(cut.message.content)


async def test_a_schema_and_log_probabilities(client: openai.AsyncOpenAI) -> None:
    held = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": "🙂 bee"}}}
    answer = await client.chat.completions.create(
        **CHAT, logprobs=True, top_logprobs=20, response_format=held
    )
    [choice] = answer.choices
    assert choice.message.content == '"🙂 bee"'
    assert choice.logprobs is not None
    assert spelled(choice.logprobs.content or []) == choice.message.content
    # Held to be unlikely by a model that knows of no schema.
    assert any(
        token.token not in [other.token for other in token.top_logprobs]
        for token in choice.logprobs.content or []
    )


def measured(text: str, token: int, logprob: float, offset: int) -> Piece:
    top = (TokenLogprob(7, -0.5), TokenLogprob(2, -math.inf))
    return Piece(text, 1, (TokenLogprobs(token, logprob, top, offset),))


def answered(_: Any) -> list[Event]:
    return [
        Started(3, 7),
        measured("<5>", 5, -1.25, 0),
        measured("", 2, -3.0, 3),
        finished(StopReason.MAX_TOKENS, 2),
    ]


ONE = (
    '{"token":"<5>","logprob":-1.25,"bytes":[60,53,62],"top_logprobs":['
    '{"token":"<7>","logprob":-0.5,"bytes":[60,55,62]},'
    '{"token":"</s>","logprob":-9999.0,"bytes":null}]}'
)
OTHER = (
    '{"token":"</s>","logprob":-3.0,"bytes":null,"top_logprobs":['
    '{"token":"<7>","logprob":-0.5,"bytes":[60,55,62]},'
    '{"token":"</s>","logprob":-9999.0,"bytes":null}]}'
)


async def test_the_bytes_of_a_chat(tmp_path: Path) -> None:
    body = {"model": MODEL, "messages": HELLO, "logprobs": True, "top_logprobs": 2}
    engine = StandInEngine(answered)
    async with served(tmp_path, engine) as (client, _):
        whole = await client.post("/v1/chat/completions", json=body)
        stream = await client.post("/v1/chat/completions", json=body | {"stream": True})
    assert f'"logprobs":{{"content":[{ONE},{OTHER}],"refusal":null}},"finish' in whole.text
    first, one, other, last, done, _ = stream.text.split("\n\n")
    assert '"delta":{"role":"assistant","content":""},"logprobs":null,"finish' in first
    assert (
        f'"delta":{{"content":"<5>"}},"logprobs":{{"content":[{ONE}],"refusal":null}},"finish'
        in one
    )
    assert (
        f'"delta":{{"content":""}},"logprobs":{{"content":[{OTHER}],"refusal":null}},"finish'
        in other
    )
    assert '"delta":{},"logprobs":null,"finish_reason":"length"' in last
    assert done == "data: [DONE]"
    assert [request.sampling.logprobs for request in engine.submitted] == [2, 2]


async def test_the_bytes_of_a_text(tmp_path: Path) -> None:
    body = {"model": MODEL, "prompt": "x", "logprobs": 2}
    engine = StandInEngine(answered)
    async with served(tmp_path, engine) as (client, _):
        whole = await client.post("/v1/completions", json=body)
    assert (
        '"logprobs":{"tokens":["<5>","</s>"],"token_logprobs":[-1.25,-3.0],"top_logprobs":['
        '{"<7>":-0.5,"</s>":-9999.0,"<5>":-1.25},{"<7>":-0.5,"</s>":-3.0}],"text_offset":[0,3]}'
    ) in whole.text
    assert engine.submitted[0].sampling.logprobs == 2


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"top_logprobs": 0}, None),
        ({"logprobs": None, "top_logprobs": None}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20.0}, 20),
    ],
)
async def test_what_the_engine_is_asked_for(
    tmp_path: Path, asked: dict[str, Any], expected: int | None
) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        body = {"model": MODEL, "messages": HELLO, **asked}
        answer = await client.post("/v1/chat/completions", json=body)
    assert engine.submitted[0].sampling.logprobs == expected
    nothing = None if expected is None else {"content": [], "refusal": None}
    assert answer.json()["choices"][0]["logprobs"] == nothing


@pytest.mark.parametrize(
    ("path", "asked", "param", "message"),
    [
        ("chat/completions", {"logprobs": 5}, "logprobs", "logprobs must be a boolean"),
        (
            "chat/completions",
            {"logprobs": True, "top_logprobs": 21},
            "top_logprobs",
            "top_logprobs must be at most 20",
        ),
        (
            "chat/completions",
            {"top_logprobs": 2},
            "top_logprobs",
            "top_logprobs is only allowed when logprobs is true",
        ),
        ("completions", {"logprobs": 6}, "logprobs", "logprobs must be at most 5"),
        ("completions", {"logprobs": -1}, "logprobs", "logprobs must be at least 0"),
        ("completions", {"logprobs": True}, "logprobs", "logprobs must be an integer"),
        ("completions", {"top_logprobs": 2}, "top_logprobs", "top_logprobs is not served"),
        ("completions", {"logprobs": 1, "echo": True}, "echo", "echo is not served"),
    ],
)
async def test_what_is_refused(
    tmp_path: Path, path: str, asked: dict[str, Any], param: str, message: str
) -> None:
    good = {"messages": HELLO} if path.startswith("chat") else {"prompt": "x"}
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post(f"/v1/{path}", json={"model": MODEL, **good, **asked})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert message in answer.json()["error"]["message"]
    assert not engine.submitted


def test_their_rule_stands_beside_others() -> None:
    class Ruled(Part):
        @classmethod
        def __get_pydantic_json_schema__(
            cls, core: CoreSchema, handler: GetJsonSchemaHandler
        ) -> JsonSchemaValue:
            schema = super().__get_pydantic_json_schema__(core, handler)
            handler.resolve_ref_schema(schema)["allOf"] = [{"required": ["logprobs"]}]
            return schema

    class Both(ChatLogprobsFields, Ruled):
        pass

    schema = jsonschema_rs.validator_for(Both.model_json_schema())
    assert schema.is_valid({"logprobs": True, "top_logprobs": 2})
    assert not schema.is_valid({"logprobs": False, "top_logprobs": 2})
    assert not schema.is_valid({})


async def test_the_contracts_own_routes_know_nothing_of_it(
    tmp_path: Path, tiny_artifact: Path
) -> None:
    flags = ("--model", str(tiny_artifact), "--slots", "1")
    async with running(tmp_path, load_model, *flags) as worker:
        await ready(worker)
        async with httpx.AsyncClient(base_url=worker.url) as client:
            body = {"job_id": "a", "prompt": "x", "max_tokens": 9, "seed": 1}
            plain, asked = [
                await client.post("/v1/inference", json=body | more)
                for more in ({}, {"logprobs": 5, "top_logprobs": 3})
            ]
    for answer in (plain, asked):
        events = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]
        outputs = [event for event in events if event["type"] == "output"]
        assert outputs
        assert all(list(output) == ["type", "t", "i"] for output in outputs)


@given(text=st.text(alphabet="helo wrd好é🙂\n", max_size=20), level=st.booleans())
@settings(max_examples=60, deadline=None)
def test_offsets_are_those_of_characters(text: str, level: bool) -> None:
    """Also of tokens that the engine could only tell together."""
    tokenizer = byte_level() if level else byte_fallback()
    ids = [token for token in tokenizer.encode(text) if not tokenizer.is_special(token)]
    # As if no text had been certain before the end.
    known = [TokenLogprobs(token, -1.0, ()) for token in ids]
    told = TextLogprobsTeller(tokenizer).tell(known)
    data, expected = b"", []
    for token in ids:
        expected.append(len(data.decode(errors="ignore")))
        data += tokenizer.spelled(token) or b""
    assert told["text_offset"] == expected
    assert data.decode().lstrip(" ") == text.lstrip(" ")
    content = ChatLogprobsTeller(tokenizer).tell(known)["content"]
    assert bytes(byte for token in content for byte in token["bytes"] or []) == data
    whole = [token for token in content if not token["token"].startswith("\\x")]
    assert all(bytes(token["bytes"] or []).decode() == token["token"] for token in whole)
