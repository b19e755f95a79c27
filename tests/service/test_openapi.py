"""The document tells of every route, and what it shows is what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from sanic import Sanic
from stand_in import MODEL, StandInEngine, opened, running, served, text

SECRET = "t0ken-of-the-test"
METHODS = {"get", "post", "delete", "put", "patch"}


async def document_of(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/docs/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    made: dict[str, Any] = answer.json()
    return made


@pytest.fixture
async def document(tmp_path: Path) -> dict[str, Any]:
    async with served(tmp_path, StandInEngine()) as (client, _):
        return await document_of(client)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def validator(document: dict[str, Any], schema: dict[str, Any]) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(schema | {"components": document["components"]})


def check_stream(document: dict[str, Any], content: dict[str, Any], stream: str) -> int:
    """Hold every event of a stream against its schema; return how many there are."""
    *events, rest = stream.split("\n\n")
    assert rest == ""
    named, typed = content["schema"]["required"] == ["event", "data"], None
    match content["schema"]["properties"]["data"]:
        case {"anyOf": [last, typed]}:
            assert re.search(last["pattern"], events.pop().removeprefix("data: "))
        case typed:
            pass
    holds = validator(document, typed["contentSchema"])
    for event in events:
        name, data = event.split("\n") if named else ("", event)
        told = json.loads(data.removeprefix("data: "))
        holds.validate(told)
        assert not named or name == f"event: {told['type']}"
    return len(events)


async def test_it_is_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(document).validate()
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)


async def test_every_route_is_in_it_with_its_auth(tmp_path: Path) -> None:
    flags = ["--host", "127.0.0.1", "--worker-id", "documented"]
    environment = {"LLORCH_API_TOKEN": SECRET}
    async with (
        running(tmp_path, opened(StandInEngine()), *flags, environment=environment) as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        document = await document_of(client)
        told = {(method.upper(), path) for method, path, _ in operations(document)}
        assert told == {
            (method, "/" + re.sub(r"<(\w+):\w+>", r"{\1}", route.path))
            for route in Sanic.get_app("worker_documented").router.routes
            for method in route.methods - {"HEAD"}
        }
        for method, path, operation in operations(document):
            answer = await client.request(method, re.sub(r"\{\w+\}", "x", path))
            assert (answer.status_code == 401) == bool(operation["security"]), path
            assert ("401" in operation["responses"]) == bool(operation["security"]), path
        page = await client.get("/docs")
    assert SECRET not in json.dumps(document) + page.text


async def test_what_it_does_not_tell_of_is_not_there(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        document = await document_of(client)
        for path, methods in document["paths"].items():
            for method in METHODS - methods.keys():
                answer = await client.request(method, re.sub(r"\{\w+\}", "x", path))
                assert answer.status_code == 405, (method, path)
                allowed = {m.lower() for m in answer.headers["allow"].split(", ")}
                assert allowed - {"head"} == set(methods)


async def test_what_it_shows_is_what_it_says(document: dict[str, Any]) -> None:
    bodies = streams = 0
    for _, _, operation in operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            validator(document, content["schema"]).validate(content["example"])
            bodies += 1
        for answer in operation["responses"].values():
            content = answer["content"].get("text/event-stream")
            if content is not None:
                assert check_stream(document, content, content["example"])
                streams += 1
    assert (bodies, streams) == (11, 8)


@pytest.mark.parametrize("dialect", ["output", "token"])
async def test_a_stream_is_what_it_says(tmp_path: Path, dialect: str) -> None:
    engine = StandInEngine(lambda _: text("a", "b"))
    body = {"job_id": "j", "prompt": "p", "max_tokens": 4}
    async with served(tmp_path, engine, "--sse-dialect", dialect) as (client, _):
        document = await document_of(client)
        answer = await client.post("/v1/inference", json=body)
    operation = document["paths"]["/v1/inference"]["post"]
    content = operation["responses"]["200"]["content"]["text/event-stream"]
    assert check_stream(document, content, answer.text) > 5
    with pytest.raises(jsonschema_rs.ValidationError):
        check_stream(document, content, answer.text.replace('"i":0', '"i":"0"'))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}),
    ],
)
async def test_a_stream_of_another_api_is_what_it_says(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    asked = {"model": MODEL, "stream": True} | body
    if path != "/v1/messages":
        asked["stream_options"] = {"include_usage": True}
    async with served(tmp_path, StandInEngine()) as (client, _):
        document = await document_of(client)
        answer = await client.post(path, json=asked)
    content = document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
    assert check_stream(document, content, answer.text) >= 4


async def test_the_page_stands_alone(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        document = await document_of(client)
        page = await client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert not re.search(r"<(script|link|img|iframe)|(src|href)=.?(https?:)?//|url\(", page.text)
    for _, path, operation in operations(document):
        assert path in page.text
        assert operation["summary"] in page.text
    anchors = set(re.findall(r'id="(\w+)"', page.text))
    assert set(re.findall(r'href="#(\w+)"', page.text)) <= anchors
