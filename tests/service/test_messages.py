"""Anthropic's Messages API, asked of real models, and byte for byte."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from stand_in import MODEL, StandInEngine, endless, finished, opened, ready, running, served, text
from support.makers import MakeToolArtifact
from support.thinkers import thinking_tokenizer

from rbee_runtime.constraint import Function, JsonSchema, ToolCalls
from rbee_runtime.errors import OutOfMemory, QueueFull
from rbee_runtime.events import Event, Failed, Finished, Piece, Started, StopReason
from rbee_runtime.request import SamplingParams
from rbee_runtime.tools.in_words import FORM
from rbee_service.model_loader import load_model

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
SAID_HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
HELLO: dict[str, Any] = {"model": MODEL, "messages": SAID_HELLO, "max_tokens": 16}
WEATHER: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL: dict[str, Any] = {"name": "weather", "description": "Tells it", "input_schema": WEATHER}
SAID = ("Well <tool", '_call>\n{"name": "weather", "arguments": {"a"', ": 1}}\n", "</tool_call>")


def events_of(stream: str) -> list[dict[str, Any]]:
    """Return what is told, whose names must be those of the events."""
    *events, rest = stream.split("\n\n")
    assert rest == ""
    told = []
    for event in events:
        name, data = event.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        told.append(body)
    return told


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the answer that a stream tells, as clients put it together."""
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    for event in events:
        match event:
            case {"type": "message_start", "message": begun}:
                message = begun
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert index == len(message["content"])
                message["content"].append(block)
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert index == len(message["content"]) - 1
                block = message["content"][index]
                kind = delta.pop("type")
                if kind == "input_json_delta":
                    inputs[index] = inputs.get(index, "") + delta["partial_json"]
                else:
                    [(name, added)] = delta.items()
                    assert kind == f"{name}_delta"
                    block[name] += added
            case {"type": "content_block_stop", "index": index}:
                if index in inputs:
                    message["content"][index]["input"] = json.loads(inputs[index])
            case {"type": "message_delta", "delta": delta, "usage": usage}:
                message |= delta | {"usage": usage}
    return message


def golden(body: str) -> str:
    body = re.sub(r"msg_[0-9a-f]{32}", "msg_ID", body)
    return re.sub(r"toolu_[0-9a-zA-Z]{9}", "toolu_ID", body)


HEAD = '{"id":"msg_ID","type":"message","role":"assistant","model":"hf:test/stand-in","content":'
USAGE = (
    '"usage":{"input_tokens":2,"cache_creation_input_tokens":0,"cache_read_input_tokens":1,'
    '"output_tokens":4}'
)
BEGUN = '"stop_reason":null,"stop_sequence":null,' + USAGE.replace(":4", ":0")
WHOLE = (
    f'{HEAD}[{{"type":"text","text":"Well "}},'
    '{"type":"tool_use","id":"toolu_ID","name":"weather","input":{"a":1}}],'
    f'"stop_reason":"tool_use","stop_sequence":null,{USAGE}}}'
)
STREAM = [
    ("content_block_start", '"index":0,"content_block":{"type":"text","text":""}'),
    ("content_block_delta", '"index":0,"delta":{"type":"text_delta","text":"Well "}'),
    ("content_block_stop", '"index":0'),
    (
        "content_block_start",
        '"index":1,"content_block":{"type":"tool_use","id":"toolu_ID","name":"weather","input":{}}',
    ),
    (
        "content_block_delta",
        r'"index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\""}',
    ),
    ("content_block_delta", '"index":1,"delta":{"type":"input_json_delta","partial_json":": 1}"}'),
    ("content_block_stop", '"index":1'),
    ("message_delta", f'"delta":{{"stop_reason":"tool_use","stop_sequence":null}},{USAGE}'),
]


async def test_byte_for_byte(tmp_path: Path) -> None:
    *events, _ = text(*SAID)
    events.append(Finished(StopReason.EOS, None, 3, 1, 4, 0.25, 0.5))
    async with served(tmp_path, StandInEngine(lambda _: events)) as (client, _):
        whole = await client.post(PATH, json=HELLO | {"tools": [TOOL]})
        streamed = await client.post(PATH, json=HELLO | {"tools": [TOOL], "stream": True})
        counted = await client.post(COUNT, json={"model": MODEL, "messages": SAID_HELLO})
    assert golden(whole.text) == WHOLE
    assert streamed.headers["content-type"] == "text/event-stream"
    first, ping, *told, last = streamed.text.removesuffix("\n\n").split("\n\n")
    begun = json.loads(first.removeprefix("event: message_start\ndata: "))["message"]
    assert begun["usage"]["input_tokens"] > len("Hello")
    assert begun["content"] == []
    assert ping == 'event: ping\ndata: {"type":"ping"}'
    assert golden("\n\n".join(told)) == "\n\n".join(
        f'event: {kind}\ndata: {{"type":"{kind}",{members}}}' for kind, members in STREAM
    )
    assert last == 'event: message_stop\ndata: {"type":"message_stop"}'
    assert counted.json() == {"input_tokens": len("user: Hello\nassistant:")}


CALLED: dict[str, Any] = {"type": "tool_use", "id": "toolu_c", "name": "f", "input": {"b": "ü"}}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_use_id": "toolu_c", "content": "Rain"}
CACHED: dict[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def a_text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said} | CACHED


SO_FAR: list[tuple[dict[str, Any], str]] = [
    ({"system": "Be brief"}, "system: Be brief\nuser: Hello\nassistant:"),
    (
        {
            "system": [a_text("One"), a_text("two")],
            "messages": [
                {"role": "system", "content": "three"},
                {"role": "user", "content": [a_text("Hi"), a_text("there")]},
                {"role": "user", "content": "Well?"},
                {"role": "system", "content": [a_text("four")]},
            ],
        },
        "system: One\n\ntwo\n\nthree\nuser: Hi\n\nthere\n\nWell?\nsystem: four\nassistant:",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": "Rain?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "", "signature": "x"},
                        {"type": "redacted_thinking", "data": "x"},
                        {"type": "text", "text": "Hm", "citations": None},
                        CALLED | CACHED | {"caller": {"type": "direct"}},
                        CALLED | {"id": "d"},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        RESULT | {"is_error": False},
                        RESULT | {"tool_use_id": "d", "content": [a_text("Sun")], "is_error": True},
                        {"type": "tool_result", "tool_use_id": "d"},
                        a_text("So?"),
                    ],
                },
                {"role": "assistant", "content": "A"},
                {"role": "assistant", "content": []},
                {"role": "user", "content": "B"},
            ]
        },
        "user: Rain?\nassistant: Hm\n"
        + '<tool_call>\n{"name": "f", "arguments": {"b": "ü"}}\n</tool_call>\n' * 2
        + "user: <tool_response>\nRain\n</tool_response>\n\n"
        "<tool_response>\nError: Sun\n</tool_response>\n\n"
        "<tool_response>\n\n</tool_response>\n\nSo?\nassistant: A\nuser: B\nassistant:",
    ),
]


async def test_what_was_said_so_far(tmp_path: Path) -> None:
    engine = StandInEngine()
    asked = [HELLO | changed for changed, _ in SO_FAR]
    async with served(tmp_path, engine) as (client, _):
        for body in asked:
            answer = await client.post(PATH, json=body)
            assert answer.status_code == 200, answer.text
    assert [bytes(one.prompt).decode() for one in engine.submitted] == [told for _, told in SO_FAR]


async def test_a_template_that_takes_no_later_system_message(tmp_path: Path) -> None:
    """What it says is put among what the user says, and an id is without what only clients want."""
    tokenizer: Any = thinking_tokenizer("channels")
    tokenizer.chat_template = (
        "{% for m in messages %}"
        "{% if m.role == 'system' and not loop.first %}{{ raise_exception('no') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    engine = StandInEngine(tokenizer=tokenizer)
    later = [*SAID_HELLO, {"role": "system", "content": "Be brief"}]
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post(PATH, json=HELLO | {"messages": later})
    assert answer.status_code == 200, answer.text
    assert tokenizer.decode(engine.submitted[0].prompt) == "[user]Hello\n\nBe brief"


async def test_the_engine_gets_what_was_asked_for(tmp_path: Path) -> None:
    engine = StandInEngine()
    schema = {"type": "json_schema", "schema": WEATHER}
    unenforceable = WEATHER | {"propertyNames": {"pattern": "^a"}, "not": {}}
    neutral: dict[str, Any] = {
        "cache_control": {"type": "ephemeral"},
        "container": None,
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "mcp_servers": [],
        "metadata": {"user_id": "somebody"},
        "output_config": {"effort": "high"},
        "service_tier": "auto",
        "speed": "standard",
        "thinking": {"type": "adaptive", "display": "summarized"},
    }
    more = {"strict": True, "eager_input_streaming": True, "allowed_callers": ["direct"]}
    drawn: dict[str, Any] = {"temperature": 0, "top_p": 0.5, "top_k": 3, "stop_sequences": ["x"]}
    one = {"type": "tool", "name": "weather"}
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "one-2026-01-01,two"}
    async with served(tmp_path, engine) as (client, _):
        for asked in (
            neutral | drawn,
            {"output_config": {"format": schema}, "tools": [TOOL], "tool_choice": {"type": "none"}},
            {"output_format": schema, "max_tokens": 10**6},
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            {"tools": [TOOL | {"type": "custom"} | more | CACHED], "tool_choice": {"type": "any"}},
            {"tools": [TOOL | {"input_schema": unenforceable}], "tool_choice": one},
        ):
            answer = await client.post(f"{PATH}?beta=true", json=HELLO | asked, headers=headers)
            assert answer.status_code == 200, answer.text
    first, shaped, long, *calling = engine.submitted
    assert (first.max_tokens, first.stop, first.constraint) == (16, ("x",), None)
    assert first.sampling == SamplingParams(temperature=0.0, top_p=0.5, top_k=3)
    assert shaped.constraint == long.constraint == JsonSchema(WEATHER, "output_config.format")
    assert long.max_tokens == engine.context_length - len(long.prompt)
    weather = (Function("weather", WEATHER, "tools[0].input_schema"),)
    assert [one.constraint for one in calling] == [
        ToolCalls(weather, FORM, parallel=False),
        ToolCalls(weather, FORM, required=True),
        ToolCalls(weather, FORM, required=True, parallel=False),
    ]
    # The model is told of all of it.
    assert b'"propertyNames"' in bytes(calling[-1].prompt)


BEGINNING = 'Hm<tool_call>{"name":"weather","arguments":{"a'
A_CALL = '<tool_call>{"name":"weather","arguments":{}}</tool_call>'
ODD = r'{"a": ["\ud83d", 1]}'
DEEP = '{"a": ' * 5000 + "1" + "}" * 5000
ENDS: list[tuple[str, Finished, str, str | None, list[Any]]] = [
    ("Hi", finished(), "end_turn", None, ["Hi"]),
    ("", finished(), "end_turn", None, []),
    ("Hi", finished(StopReason.MAX_TOKENS, 16), "max_tokens", None, ["Hi"]),
    ("Hi", finished(StopReason.MAX_TOKENS), "model_context_window_exceeded", None, ["Hi"]),
    ("Hi", finished(StopReason.STOP_SEQUENCE, stop="x"), "stop_sequence", "x", ["Hi"]),
    ("a <tool_", finished(), "end_turn", None, ["a <tool_"]),
    (BEGINNING, finished(StopReason.MAX_TOKENS, 16), "max_tokens", None, ["Hm", {}]),
    (A_CALL, finished(), "tool_use", None, [{}]),
    (A_CALL.replace("{}", ODD), finished(), "tool_use", None, [{"a": ["?", 1]}]),
    (A_CALL.replace("{}", DEEP), finished(), "tool_use", None, [{}]),
]


async def test_how_an_answer_ends(tmp_path: Path) -> None:
    engine = StandInEngine()
    asked = HELLO | {"tools": [TOOL]}
    async with served(tmp_path, engine) as (client, _):
        for said, end, reason, stop, content in ENDS:
            events: list[Event] = [Started(3, 7), *([Piece(said, 1)] if said else []), end]
            engine.answer = lambda _, events=events: events  # type: ignore[misc]
            whole = (await client.post(PATH, json=asked)).json()
            assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, stop)
            assert [one.get("text", one.get("input")) for one in whole["content"]] == content
            told = events_of((await client.post(PATH, json=asked | {"stream": True})).text)
            assert told[-2]["delta"] == {"stop_reason": reason, "stop_sequence": stop}
            if said in ("Hi", "", A_CALL):
                streamed = put_together(told)
                assert golden(json.dumps(streamed)) == golden(json.dumps(whole))


async def test_what_is_thought_first(tmp_path: Path) -> None:
    pieces = ("<think>\nWell", ", well.\n", "</think>", "\n\n", "Hi")
    tokenizer: Any = thinking_tokenizer("qwen3")
    engine = StandInEngine(lambda _: text(*pieces), tokenizer=tokenizer)
    omitted = {"type": "adaptive", "display": "omitted"}
    async with served(tmp_path, engine) as (client, _):
        whole = (await client.post(PATH, json=HELLO)).json()
        streamed = await client.post(PATH, json=HELLO | {"stream": True})
        hidden = (await client.post(PATH, json=HELLO | {"thinking": omitted})).json()
        back = [*SAID_HELLO, {"role": "assistant", "content": whole["content"]}, *SAID_HELLO]
        off = {"thinking": {"type": "disabled"}, "messages": back}
        assert (await client.post(PATH, json=HELLO | off)).status_code == 200
        prompt = tokenizer.name, engine.submitted[-1].prompt
    thought, said = whole["content"]
    assert thought == {"type": "thinking", "thinking": "Well, well.", "signature": "unsigned"}
    assert said == {"type": "text", "text": "Hi"}
    assert whole["usage"]["output_tokens_details"] == {"thinking_tokens": 3}
    together = put_together(events_of(streamed.text))
    assert together | {"id": ""} == whole | {"id": ""}
    assert hidden["content"] == [thought | {"thinking": ""}, said]
    name, ids = prompt
    assert "".join(map(name, ids)).endswith("<think>ĊĊ</think>ĊĊ")


TOLD: list[tuple[str, dict[str, Any], str | None]] = [
    ("effort", {"output_config": {"effort": "low"}}, "low]"),
    ("effort", {"thinking": {"type": "disabled"}}, "none]"),
    ("effort", {"thinking": {"type": "enabled", "budget_tokens": 2048}}, "usual]"),
    ("r1", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}, "<think>\n"),
    ("r1", {"thinking": {"type": "disabled"}}, None),
    ("plain", {"thinking": {"type": "disabled"}}, "assistant:"),
    ("plain", {"thinking": {"type": "enabled", "budget_tokens": 2048}}, None),
]


async def test_what_the_template_is_told_of_thinking(tmp_path: Path) -> None:
    engine = StandInEngine()
    plain = engine.tokenizer
    async with served(tmp_path, engine) as (client, _):
        for model, asked, prompt in TOLD:
            tokenizer: Any = plain if model == "plain" else thinking_tokenizer(model)
            engine.tokenizer = tokenizer
            answer = await client.post(PATH, json=HELLO | asked)
            if prompt is None:
                assert answer.status_code == 400
                assert answer.json()["error"]["message"].startswith("thinking: this model ")
                continue
            assert answer.status_code == 200, answer.text
            ids = engine.submitted[-1].prompt
            told = bytes(ids).decode() if model == "plain" else tokenizer.decode(ids)
            assert told.endswith(prompt)


IMAGE = {"type": "image", "source": {"type": "url", "url": "SECRET"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens is required"),
    ({"max_tokens": 0}, "max_tokens must be at least 1"),
    ({"messages": []}, "messages must have at least 1 item"),
    ({"messages": ["SECRET"]}, "messages[0]: its role must be user, assistant or system"),
    ({"messages": [{"role": "user"}]}, "messages[0].content is required"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content: it must be a string or"),
    (
        {"messages": [{"role": "user", "content": [a_text("x"), IMAGE]}]},
        "messages[0].content[1]: only blocks of type text and tool_result are served here",
    ),
    (
        {"messages": [{"role": "assistant", "content": [RESULT]}]},
        "messages[0].content[0]: only blocks of type text, tool_use, thinking and redacted",
    ),
    (
        {"messages": [{"role": "user", "content": [RESULT | {"content": [IMAGE]}]}]},
        "messages[0].content[0].content[0]: only blocks of type text are served here",
    ),
    (
        {"messages": [*SAID_HELLO, {"role": "assistant", "content": "It is"}]},
        "the last of messages must be the user's: no answer is continued",
    ),
    ({"messages": [{"role": "user", "content": "REFUSE"}]}, "the chat template failed"),
    ({"system": [IMAGE]}, "system[0]: only blocks of type text are served here"),
    ({"temperature": 1.5}, "temperature must be at most 1"),
    ({"container": "SECRET"}, "container is not served by this worker, or not with this value"),
    ({"mcp_servers": [{"SECRET": 1}]}, "mcp_servers is not served"),
    ({"inference_geo": "us"}, "inference_geo is not served"),
    ({"speed": "fast"}, "speed is not served"),
    ({"n": 1}, "n is not known to this worker"),
    ({"thinking": {"type": "between_tools"}}, "thinking: its type must be enabled, adaptive or"),
    ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens must be at l"),
    (
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        "context_management.edits[0].type must be clear_thinking_20251015",
    ),
    ({"tools": [{"type": "web_search_20250305"}]}, "tools[0]: only tools of type custom are"),
    ({"tools": [TOOL, TOOL]}, "tools: two functions have one name"),
    ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading must be false"),
    ({"tool_choice": {"type": "any"}}, "tool_choice any needs tools"),
    ({"tool_choice": {"type": "SECRET"}}, "tool_choice.type must be auto, any or none"),
    ({"tool_choice": "auto"}, "tool_choice: its type must be auto, any, tool or none"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "SECRET"}},
        "tool_choice must name one of the tools",
    ),
    (
        {"tools": [TOOL], "output_config": {"format": {"type": "json_schema", "schema": {}}}},
        "output_config.format is served with tools only where tool_choice is none",
    ),
    (
        {
            "output_format": {"type": "json_schema", "schema": {}},
            "output_config": {"format": {"type": "json_schema", "schema": {}}},
        },
        "output_format is another name of output_config.format: send one of them",
    ),
    ({"output_config": {"effort": "SECRET"}}, "output_config.effort must be low, medium, high"),
]


async def test_nothing_is_ignored(tmp_path: Path) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        for changed, message in REFUSED:
            answer = await client.post(PATH, json=HELLO | changed)
            error = answer.json()["error"]
            assert (answer.status_code, error["type"]) == (400, "invalid_request_error"), error
            assert error["message"].startswith(message), error
            assert "SECRET" not in answer.text
        thread = await client.post(PATH, json=HELLO | {"thread": {"type": "create"}})
        uncounted = await client.post(COUNT, json=HELLO)
    assert not engine.submitted
    assert thread.status_code == 400
    # By this code Anthropic's client knows that it has to send all that was said.
    assert thread.json()["error"]["details"] == {"error_code": "thread_unsupported_request"}
    assert uncounted.json()["error"]["message"].startswith("max_tokens is not served")


async def test_failures(tmp_path: Path) -> None:
    engine = StandInEngine(lambda _: [Started(3, 7), Piece("x", 1), Failed(OutOfMemory("none"))])
    streaming = HELLO | {"stream": True}
    async with served(tmp_path, engine) as (client, _):
        whole = await client.post(PATH, json=HELLO)
        streamed = await client.post(PATH, json=streaming)
        other = await client.post(COUNT, json=HELLO | {"model": "claude", "max_tokens": None})
        nowhere = await client.get(f"{PATH}/batches", headers={"request-id": "req_mine"})
        method = await client.get(PATH)
        unread = await client.post(PATH, content=b"{")
        engine.refusal = QueueFull("the queue is full")
        busy = await client.post(PATH, json=streaming)
        engine.refusal, engine.answer = None, endless
        async with client.stream("POST", PATH, json=streaming) as gone:
            assert (await anext(gone.aiter_lines())) == "event: message_start"
        await engine.wait(lambda: engine.live == 0 and len(engine.cancelled) == 1)
    failures = [
        (whole, 507, "api_error", "none"),
        (other, 404, "not_found_error", "this worker serves hf:test/stand-in and no other model"),
        (nowhere, 404, "not_found_error", "no such route; /docs has all"),
        (method, 405, "invalid_request_error", "Method GET not allowed"),
        (unread, 400, "invalid_request_error", "the body is not valid JSON"),
        (busy, 503, "overloaded_error", "the queue is full"),
    ]
    for answer, status, kind, message in failures:
        body = answer.json()
        assert (answer.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)
        assert body["error"]["message"].startswith(message)
        assert body["request_id"] == answer.headers["request-id"]
    assert nowhere.headers["request-id"] == "req_mine"
    assert busy.headers["retry-after"] == "1"
    last = {"type": "error", "error": {"type": "api_error", "message": "none"}}
    assert events_of(streamed.text)[-1] == last


async def test_a_prompt_that_is_too_long(tmp_path: Path, tiny_artifact: Path) -> None:
    flags = ("--model", str(tiny_artifact), "--model-ref", MODEL)
    async with running(tmp_path, load_model, *flags) as worker:
        await ready(worker)
        async with httpx.AsyncClient(base_url=worker.url, timeout=30) as client:
            answer = await client.post(PATH, json=HELLO | {"system": "word " * 2000})
            counted = await client.post(COUNT, json={"model": MODEL, "messages": SAID_HELLO})
            filled = await client.post(PATH, json=HELLO | {"max_tokens": 10**6})
    assert answer.status_code == 400
    # By these words clients know that they have to shorten it.
    assert answer.json()["error"]["message"].startswith("prompt is too long: prompt (")
    assert filled.json()["usage"]["input_tokens"] == counted.json()["input_tokens"]


async def test_the_token_in_either_header(tmp_path: Path) -> None:
    flags = ("--host", "127.0.0.1")
    environment = {"LLORCH_API_TOKEN": "s3cret"}
    right, wrong, bearer = "s3cret", "another", "Bearer s3cret"
    async with (
        running(tmp_path, opened(StandInEngine()), *flags, environment=environment) as worker,
        httpx.AsyncClient(base_url=worker.url) as client,
    ):
        statuses = [
            (await client.post(path, json={}, headers=headers)).status_code
            for path, headers in (
                (PATH, {"x-api-key": right}),
                (COUNT, {"x-api-key": right}),
                (PATH, {"authorization": bearer}),
                (PATH, {"authorization": "Bearer another", "x-api-key": right}),
                (PATH, {"authorization": bearer, "x-api-key": wrong}),
                (PATH, {"x-api-key": wrong}),
                (PATH, {"x-api-key": ""}),
                (PATH, {"x-api-key": bearer}),
                ("/v1/chat/completions", {"x-api-key": right}),
            )
        ]
        refused = await client.post(PATH, json={}, headers={"x-api-key": wrong})
    assert [status != 401 for status in statuses] == [True] * 5 + [False] * 4
    assert refused.json()["error"] == {
        "type": "authentication_error",
        "message": "the API key is not the one of this worker",
    }


@pytest.fixture
async def qwen(
    tmp_path: Path, make_tool_artifact: MakeToolArtifact
) -> AsyncIterator[httpx.AsyncClient]:
    flags = ("--model", str(make_tool_artifact("qwen2")), "--model-ref", "tiny")
    async with running(tmp_path, load_model, *flags) as worker:
        await ready(worker)
        async with httpx.AsyncClient(base_url=worker.url, timeout=30) as client:
            yield client


async def test_a_model_that_is_real(qwen: httpx.AsyncClient) -> None:
    """Its calls are held to what of their schema can be enforced, and come back."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 6}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
        "propertyNames": {"minLength": 1},
    }
    asking: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Rain in Köln?"}],
        "max_tokens": 300,
        "temperature": 0,
        "tools": [TOOL | {"input_schema": schema}],
        "tool_choice": {"type": "tool", "name": "weather"},
    }
    strict = [TOOL | {"input_schema": schema, "strict": True}]
    refused = await qwen.post(PATH, json=asking | {"tools": strict})
    called = (await qwen.post(PATH, json=asking)).json()
    streamed = await qwen.post(PATH, json=asking | {"stream": True})
    assert refused.status_code == 400
    assert "tools[0].input_schema: propertyNames cannot be" in refused.json()["error"]["message"]
    [call] = called["content"]
    assert call["input"].keys() == {"city", "unit"}
    assert len(call["input"]["city"]) <= 6
    again = put_together(events_of(streamed.text))
    assert again["content"][0]["input"] == call["input"]
    assert again["usage"]["cache_read_input_tokens"] > 0
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "It pours"}
    asking["messages"] += [
        {"role": "assistant", "content": called["content"]},
        {"role": "user", "content": [result]},
    ]
    asking |= {"max_tokens": 2, "tool_choice": {"type": "none"}}
    last = (await qwen.post(PATH, json=asking)).json()
    assert last["stop_reason"] == "max_tokens"
    assert last["usage"]["output_tokens"] == 2
    counting = {name: value for name, value in asking.items() if name not in NOT_COUNTED}
    counted = (await qwen.post(COUNT, json=counting)).json()["input_tokens"]
    usage = last["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == counted


NOT_COUNTED = {"max_tokens", "temperature"}


def test_a_worker_that_is_not_asked_does_not_wait_for_it() -> None:
    program = (
        "import sys, rbee_service.worker\n"
        "late = ('rbee_service.anthropic', 'rbee_service.openai.responses')\n"
        "assert not [name for name in sys.modules if name.startswith(late)]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
