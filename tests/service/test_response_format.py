"""Chats whose answers are held to JSON, asked by OpenAI's own client of a real model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import httpx
import jsonschema_rs
import openai
import pytest
from pydantic import BaseModel, Field
from stand_in import MODEL, StandInEngine, served, text
from support.openai_client import asked_of

from rbee_runtime.constraint import JsonSchema

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
ASKING: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 400}


class Bee(BaseModel):
    name: str = Field(max_length=6)
    age: int = Field(ge=0, le=99)
    kind: Literal["worker", "queen"]


class Hive(BaseModel):
    bees: list[Bee] = Field(max_length=2)
    queen: Bee | None


@pytest.fixture
async def client(tmp_path: Path, tiny_artifact: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    async with asked_of(tiny_artifact, tmp_path) as client:
        yield client


def of(schema: Any, **others: Any) -> Any:
    named = {"name": "answer", "schema": schema, **others}
    return {"type": "json_schema", "json_schema": named}


async def test_parsed_into_a_model(client: openai.AsyncOpenAI) -> None:
    for seed in range(3):
        answer = await client.chat.completions.parse(**ASKING, response_format=Hive, seed=seed)
        [choice] = answer.choices
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, Hive)
        assert choice.message.content is not None
        assert Hive.model_validate_json(choice.message.content) == choice.message.parsed


async def test_streamed(client: openai.AsyncOpenAI) -> None:
    schema = {"type": "array", "items": {"enum": ["a", 1, None]}, "minItems": 3, "maxItems": 3}
    asking = ASKING | {"response_format": of(schema, strict=True, description="Three")}
    whole = await client.chat.completions.create(**asking, seed=5)
    stream = await client.chat.completions.create(**asking, seed=5, stream=True)
    pieces, reasons = "", []
    async for chunk in stream:
        pieces += chunk.choices[0].delta.content or ""
        reasons.append(chunk.choices[0].finish_reason)
    jsonschema_rs.validate(schema, json.loads(pieces))
    assert pieces == whole.choices[0].message.content
    assert reasons[-1] == "stop"


async def test_any_object(client: openai.AsyncOpenAI) -> None:
    for seed in range(3):
        answer = await client.chat.completions.create(
            **ASKING, response_format={"type": "json_object"}, seed=seed
        )
        said = answer.choices[0].message.content or ""
        assert said.lstrip().startswith("{")
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(said), dict)


async def test_one_that_is_cut_off_says_so(client: openai.AsyncOpenAI) -> None:
    asking = ASKING | {"max_completion_tokens": 3}
    answer = await client.chat.completions.create(
        **asking, response_format=of({"const": "abcd" * 9})
    )
    assert answer.choices[0].finish_reason == "length"
    with pytest.raises(openai.LengthFinishReasonError):
        await client.chat.completions.parse(**asking, response_format=Hive)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"not": {}}, "response_format: not cannot be enforced"),
        (
            {"properties": {"a": {"uniqueItems": True}}},
            "response_format at /properties/a: uniqueItems cannot be enforced",
        ),
        ({"type": "bee"}, "response_format: Invalid type: bee"),
        ({"pattern": "(SECRET"}, "response_format: in a pattern, unclosed group"),
        ({"title": "SECRET" * 12_000}, "response_format has 72012 characters, more than 65536"),
    ],
)
async def test_a_schema_that_cannot_be_enforced(
    client: openai.AsyncOpenAI, schema: Any, message: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(
                **ASKING, response_format=of(schema), stream=stream
            )
        assert message in refused.value.message
        assert "SECRET" not in refused.value.message
        assert (refused.value.param, refused.value.code) == ("response_format", "invalid_value")


@pytest.mark.parametrize(
    ("asked", "param", "message"),
    [
        ({"type": "xml"}, "response_format", "type must be text, json_object or json_schema"),
        ({}, "response_format", "type must be text, json_object or json_schema"),
        ("json", "response_format", "type must be text, json_object or json_schema"),
        ({"type": "json_schema"}, "response_format.json_schema", "is required"),
        (
            {"type": "json_schema", "json_schema": {"name": "a"}},
            "response_format.json_schema.schema",
            "is required",
        ),
        (
            of({}, name="a b"),
            "response_format.json_schema.name",
            "must match ^[a-zA-Z0-9_-]{1,64}$",
        ),
        (of([]), "response_format.json_schema.schema", "must be an object"),
        (of({}, strict=1), "response_format.json_schema.strict", "must be a boolean"),
        (of({}, lax=1), "response_format.json_schema.lax", "is not known to this worker"),
        ({"type": "json_object", "x": 1}, "response_format.x", "is not known to this worker"),
    ],
)
async def test_a_format_that_is_none(tmp_path: Path, asked: Any, param: str, message: str) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post(
            "/v1/chat/completions",
            json={"model": MODEL, "messages": HELLO, "response_format": asked},
        )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert message in answer.json()["error"]["message"]
    assert not engine.submitted


async def test_the_engine_gets_what_was_asked_for(tmp_path: Path) -> None:
    engine = StandInEngine(lambda _: text("{}"))
    formats = [None, {"type": "text"}, {"type": "json_object"}, of({"type": "array"}, strict=None)]
    async with served(tmp_path, engine) as (client, _):
        for asked in formats:
            body = {"model": MODEL, "messages": HELLO, "response_format": asked}
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    assert [one.constraint for one in engine.submitted] == [
        None,
        None,
        JsonSchema({"type": "object"}, "response_format"),
        JsonSchema({"type": "array"}, "response_format"),
    ]


async def test_only_chats_have_it(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        body = {"model": MODEL, "prompt": "x", "response_format": {"type": "json_object"}}
        answer: httpx.Response = await client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_parameter"
