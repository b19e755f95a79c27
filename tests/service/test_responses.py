"""The Responses API, asked by OpenAI's own client of real models, and byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel, Field
from stand_in import MODEL, StandInEngine, endless, finished, served, text
from support.makers import MakeToolArtifact
from support.openai_client import asked_of
from support.thinkers import thinking_tokenizer

from rbee_runtime.constraint import Function, JsonSchema, ToolCalls
from rbee_runtime.errors import ContextOverflow, OutOfMemory
from rbee_runtime.events import Event, Failed, Piece, Started, StopReason
from rbee_runtime.logprobs import TokenLogprobs
from rbee_runtime.request import SamplingParams
from rbee_runtime.tools.in_words import FORM

PATH = "/v1/responses"
HELLO: dict[str, Any] = {"model": MODEL, "input": "Hello"}
WEATHER: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL: dict[str, Any] = {"type": "function", "name": "weather", "parameters": WEATHER}
SAID = ("Well <tool", '_call>\n{"name": "weather", "arguments": {"a"', ": 1}}\n", "</tool_call>")


def events_of(stream: str) -> list[dict[str, Any]]:
    """Return what is told, whose names and numbers must be those of the events."""
    *events, rest = stream.split("\n\n")
    assert rest == ""
    told = []
    for number, event in enumerate(events):
        name, data = event.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        assert body["sequence_number"] == number
        told.append(body)
    return told


def golden(body: str) -> str:
    body = re.sub(r"(resp|msg|fc|rs)_[0-9a-f]{32}", r"\1_ID", body)
    body = re.sub(r'"call_id":"[0-9a-zA-Z]{9}"', '"call_id":"CALL"', body)
    return re.sub(r'("(created|completed)_at"):\d{10}', r"\1:NOW", body)


ECHO = (
    '"background":false,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,'
    '"metadata":{},"model":"hf:test/stand-in","parallel_tool_calls":true,'
    '"previous_response_id":null,"prompt_cache_key":null,'
    '"reasoning":{"effort":null,"summary":null},"safety_identifier":null,'
    '"service_tier":"default","store":false,"temperature":1.0,'
    '"text":{"format":{"type":"text"},"verbosity":"medium"},"tool_choice":"auto","tools":'
    '[{"name":"weather","description":null,"parameters":{"type":"object","properties":{"a":'
    '{"type":"integer"}}},"strict":null,"type":"function"}],"top_logprobs":0,"top_p":1.0,'
    '"truncation":"disabled","user":null}'
)
BEGUN = (
    '{"id":"resp_ID","object":"response","created_at":NOW,"status":"in_progress","error":null,'
    f'"incomplete_details":null,"usage":null,"output":[],{ECHO}'
)
PART = '{"type":"output_text","annotations":[],"text":"Well ","logprobs":[]}'
MESSAGE = '{"id":"msg_ID_0","type":"message","role":"assistant","status":'
SPOKEN = f'{MESSAGE}"completed","content":[{PART}]}}'
CALL = '{"id":"fc_ID_1","type":"function_call","status":"completed","call_id":"CALL",'
CALL += r'"name":"weather","arguments":"{\"a\": 1}"}'
WHOLE = (
    '{"id":"resp_ID","object":"response","created_at":NOW,"status":"completed","error":null,'
    '"incomplete_details":null,"usage":{"input_tokens":3,"input_tokens_details":'
    '{"cached_tokens":0,"cache_write_tokens":3},"output_tokens":4,"output_tokens_details":'
    '{"reasoning_tokens":0},"total_tokens":7},"completed_at":NOW,'
    f'"output":[{SPOKEN},{CALL}],{ECHO}'
)
OF_TEXT = '"item_id":"msg_ID_0","output_index":0,"content_index":0'
OF_CALL = '"item_id":"fc_ID_1","output_index":1'
STREAM = [
    ("created", f'"response":{BEGUN}'),
    ("in_progress", f'"response":{BEGUN}'),
    ("output_item.added", f'"output_index":0,"item":{MESSAGE}"in_progress","content":[]}}'),
    ("content_part.added", f'{OF_TEXT},"part":{PART.replace("Well ", "")}'),
    ("output_text.delta", f'{OF_TEXT},"delta":"Well ","logprobs":[]'),
    ("output_text.done", f'{OF_TEXT},"text":"Well ","logprobs":[]'),
    ("content_part.done", f'{OF_TEXT},"part":{PART}'),
    ("output_item.done", f'"output_index":0,"item":{SPOKEN}'),
    (
        "output_item.added",
        '"output_index":1,"item":{"id":"fc_ID_1","type":"function_call","status":"in_progress",'
        '"call_id":"CALL","name":"weather","arguments":""}',
    ),
    ("function_call_arguments.delta", rf'{OF_CALL},"delta":"{{\"a\""'),
    ("function_call_arguments.delta", rf'{OF_CALL},"delta":": 1}}"'),
    ("function_call_arguments.done", rf'{OF_CALL},"name":"weather","arguments":"{{\"a\": 1}}"'),
    ("output_item.done", f'"output_index":1,"item":{CALL}'),
    ("completed", f'"response":{WHOLE}'),
]


async def test_byte_for_byte(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine(lambda _: text(*SAID))) as (client, _):
        whole = await client.post(PATH, json=HELLO | {"tools": [TOOL]})
        streamed = await client.post(PATH, json=HELLO | {"tools": [TOOL], "stream": True})
    assert golden(whole.text) == WHOLE
    assert streamed.headers["content-type"] == "text/event-stream"
    assert golden(streamed.text) == "".join(
        f"event: response.{kind}\n"
        f'data: {{"type":"response.{kind}","sequence_number":{number},{members}}}\n\n'
        for number, (kind, members) in enumerate(STREAM)
    )
    assert Response.model_validate(whole.json()).output_text == "Well "


CALLED: dict[str, Any] = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT: dict[str, Any] = {"type": "function_call_output", "call_id": "c", "output": "Rain"}


SO_FAR: list[tuple[dict[str, Any], str]] = [
    ({"input": "Hi", "instructions": "Be brief"}, "system: Be brief\nuser: Hi\nassistant:"),
    (
        {
            "instructions": "One",
            "input": [
                {"role": "developer", "content": "two"},
                {"role": "user", "content": [{"type": "input_text", "text": "Hi"}] * 2},
                {"type": "message", "role": "system", "content": "three"},
            ],
        },
        "system: One\n\ntwo\nuser: HiHi\nsystem: three\nassistant:",
    ),
    (
        {
            "input": [
                {"role": "user", "content": "Rain?"},
                {"type": "reasoning", "summary": [], "encrypted_content": "x"},
                {
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "Hm", "annotations": []}],
                },
                CALLED | {"id": "fc_1", "status": "completed"},
                CALLED | {"call_id": "d"},
                RESULT,
                RESULT | {"call_id": "d", "output": [{"type": "input_text", "text": "Sun"}]},
                CALLED,
                RESULT,
                {"role": "assistant", "content": "A"},
                {"role": "assistant", "content": "B"},
            ]
        },
        "user: Rain?\nassistant: Hm\n"
        + '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n' * 2
        + "user: <tool_response>\nRain\n</tool_response>\n\n"
        "<tool_response>\nSun\n</tool_response>\n"
        'assistant: <tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
        "user: <tool_response>\nRain\n</tool_response>\nassistant: A\n\nB\nassistant:",
    ),
]


async def test_what_was_said_so_far(tmp_path: Path) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        for asked, _ in SO_FAR:
            answer = await client.post(PATH, json=HELLO | asked)
            assert answer.status_code == 200, answer.text
    assert [one.prompt for one in engine.submitted] == [prompt for _, prompt in SO_FAR]


async def test_the_engine_gets_what_was_asked_for(tmp_path: Path) -> None:
    engine = StandInEngine()
    shaped = {"type": "json_schema", "name": "a", "schema": WEATHER, "strict": True}
    neutral: dict[str, Any] = {
        "store": False,
        "background": False,
        "truncation": "disabled",
        "service_tier": "auto",
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"summary": "auto", "effort": None},
        "metadata": {"run": "7"},
        "user": "somebody",
        "previous_response_id": None,
        "max_tool_calls": 3,
    }
    drawn: dict[str, Any] = {"temperature": 0, "top_p": 0.5, "top_k": 3, "seed": -1, "stop": "x"}
    async with served(tmp_path, engine) as (client, _):
        for asked in (
            neutral | drawn | {"max_output_tokens": 9},
            {"text": {"format": {"type": "json_object"}}},
            {"text": {"format": shaped}, "tools": [TOOL], "tool_choice": "none"},
            {"tools": [TOOL], "parallel_tool_calls": False},
            {"tools": [TOOL], "tool_choice": "required"},
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}},
            {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        ):
            answer = await client.post(PATH, json=HELLO | asked)
            assert answer.status_code == 200, answer.text
            echoed = answer.json()
            assert {key: echoed[key] for key in asked.keys() & {"tools", "tool_choice"}} == {
                key: [TOOL | {"description": None, "strict": None}] if key == "tools" else value
                for key, value in asked.items()
                if key.startswith("tool")
            }
    first, anything, schema, *calling, measured = engine.submitted
    assert (first.max_tokens, first.stop, first.constraint) == (9, ("x",), None)
    assert first.sampling == SamplingParams(temperature=0.0, top_p=0.5, top_k=3, seed=2**64 - 1)
    assert anything.constraint == JsonSchema({"type": "object"}, "text.format")
    assert schema.constraint == JsonSchema(WEATHER, "text.format")
    weather = (Function("weather", WEATHER, "tools[0].parameters"),)
    assert [one.constraint for one in calling] == [
        ToolCalls(weather, FORM, parallel=False),
        ToolCalls(weather, FORM, required=True),
        ToolCalls(weather, FORM, required=True, parallel=False),
    ]
    assert measured.sampling.logprobs == 2


ENDS: list[tuple[str, StopReason, str, list[tuple[str, str, str]]]] = [
    ("Hi", StopReason.EOS, "completed", [("message", "completed", "Hi")]),
    ("", StopReason.EOS, "completed", [("message", "completed", "")]),
    ("Hi", StopReason.MAX_TOKENS, "incomplete", [("message", "incomplete", "Hi")]),
    ("a <tool_", StopReason.EOS, "completed", [("message", "completed", "a <tool_")]),
    (
        'Hm<tool_call>{"name":"weather","arguments":{"a',
        StopReason.MAX_TOKENS,
        "incomplete",
        [("message", "completed", "Hm"), ("function_call", "incomplete", '{"a')],
    ),
    (
        '<tool_call>{"name":"weather","arguments":{"a',
        StopReason.STOP_SEQUENCE,
        "completed",
        [("function_call", "incomplete", '{"a')],
    ),
    (
        '<tool_call>{"name":"weather","arguments":{}}</tool_call>',
        StopReason.EOS,
        "completed",
        [("function_call", "completed", "{}")],
    ),
]


async def test_how_an_answer_ends(tmp_path: Path) -> None:
    engine = StandInEngine()
    asked = HELLO | {"tools": [TOOL]}
    async with served(tmp_path, engine) as (client, _):
        for said, reason, status, items in ENDS:
            pieces = [Piece(said, 1)] if said else []
            events: list[Event] = [Started(3, 7), *pieces, finished(reason)]
            engine.answer = lambda _, events=events: events  # type: ignore[misc]
            whole = (await client.post(PATH, json=asked)).json()
            streamed = await client.post(PATH, json=asked | {"stream": True})
            *told, last = events_of(streamed.text)
            assert last["type"] == f"response.{status}"
            done = [one["item"] for one in told if one["type"] == "response.output_item.done"]
            assert done == last["response"]["output"]
            for answer in (whole, last["response"]):
                assert answer["status"] == status
                short = {"reason": "max_output_tokens"} if status == "incomplete" else None
                assert answer["incomplete_details"] == short
                assert [
                    (one["type"], one["status"], one.get("arguments") or one["content"][0]["text"])
                    for one in answer["output"]
                ] == items


async def test_the_tokens_of_what_is_said(tmp_path: Path) -> None:
    """And of nothing else: not of what was thought, nor of a call."""
    pieces = ("<think>", "Hm", "</think>", "Yes", " and", "<tool_call>", '{"name": "weather"')
    logprobs = [(TokenLogprobs(5 + n, -1.0, ((5 + n, -1.0),)),) for n in range(len(pieces))]
    events: list[Event] = [Started(3, 7)]
    events += [Piece(one, n + 1, logprobs[n]) for n, one in enumerate(pieces)]
    tokenizer: Any = thinking_tokenizer("qwen3")
    engine = StandInEngine(lambda _: [*events, finished(tokens=7)], tokenizer=tokenizer)
    include = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    async with served(tmp_path, engine) as (client, _):
        asked = HELLO | include | {"tools": [TOOL]}
        whole = (await client.post(PATH, json=asked)).json()
        streamed = await client.post(PATH, json=asked | {"stream": True})
    told = events_of(streamed.text)
    thought, said = whole["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm"}]
    [part] = said["content"]
    assert [one["logprob"] for one in part["logprobs"]] == [-1.0, -1.0]
    assert all(len(one["top_logprobs"]) == 1 for one in part["logprobs"])
    assert told[-1]["response"]["output"][1]["content"][0]["logprobs"] == part["logprobs"]
    deltas = [one for one in told if one["type"] == "response.output_text.delta"]
    assert [token for one in deltas for token in one["logprobs"]] == part["logprobs"]


async def test_what_is_thought_first(tmp_path: Path) -> None:
    pieces = ("<think>\nWell", ", well.\n", "</think>", "\n\n", "Hi")
    tokenizer: Any = thinking_tokenizer("qwen3")
    engine = StandInEngine(lambda _: text(*pieces), tokenizer=tokenizer)
    async with served(tmp_path, engine) as (client, _):
        whole = (await client.post(PATH, json=HELLO)).json()
        streamed = await client.post(PATH, json=HELLO | {"stream": True})
        more: list[Any] = [{"role": "user", "content": "Hello"}, *whole["output"]]
        more.append({"role": "user", "content": "Go on"})
        asked = {"input": more, "reasoning": {"effort": "none"}}
        assert (await client.post(PATH, json=HELLO | asked)).status_code == 200
        engine.tokenizer = thinking_tokenizer("r1")  # type: ignore[assignment]
        refused = await client.post(PATH, json=HELLO | {"reasoning": {"effort": "low"}})
    assert [one["type"] for one in whole["output"]] == ["reasoning", "message"]
    [thought] = whole["output"][0]["content"]
    assert thought == {"type": "reasoning_text", "text": "Well, well."}
    assert whole["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}
    told = [one["type"].removeprefix("response.") for one in events_of(streamed.text)]
    assert told[2:10] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
    ]
    assert str(engine.submitted[-1].prompt).endswith("<think>\n\n</think>\n\n")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "reasoning.effort"


async def test_thoughts_that_come_back(tmp_path: Path) -> None:
    """One that cannot be read is none, wherever it stands."""
    thoughts = [
        {"content": [{"type": "reasoning_text", "text": "a"}], "summary": []},
        {"summary": [{"type": "summary_text", "text": "b"}]},
        {"summary": [], "encrypted_content": "x"},
    ]
    tokenizer: Any = thinking_tokenizer("effort")
    engine = StandInEngine(tokenizer=tokenizer)
    said = {"role": "assistant", "content": "A"}
    async with served(tmp_path, engine) as (client, _):
        for thought in thoughts:
            item = {"type": "reasoning", **thought}
            for items in ([item, said], [said, item, CALLED]):
                answer = await client.post(PATH, json=HELLO | {"input": items})
                assert answer.status_code == 200, answer.text
    prompts = [str(one.prompt) for one in engine.submitted]
    end = "<|im_end|>[effort:usual]"
    assert prompts[::2] == [
        f"[assistant][THINK]a[/THINK]A{end}",
        f"[assistant][THINK]b[/THINK]A{end}",
        f"[assistant]A{end}",
    ]
    assert prompts[-1].count("[assistant]") == 1


REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"input": ""}, "input", "invalid_value", "must have at least 1 character"),
    ({"input": []}, "input", "invalid_value", "must have at least 1 item"),
    ({"input": 5}, "input", "invalid_value", "must be a string or an array of items"),
    ({"input": None}, "input", "missing_required_parameter", "is required"),
    ({"input": ["SECRET"]}, "input[0]", "invalid_value", "only items of type message, function_ca"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "invalid_value", "only items"),
    ({"input": [{"content": "x"}]}, "input[0].role", "missing_required_parameter", "is required"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input[0].content[0].type",
        "invalid_value",
        "must be input_text or output_text",
    ),
    (
        {"input": [CALLED | {"arguments": "SECRET"}]},
        "input[0].arguments",
        "invalid_value",
        "must be a JSON object, written as a string",
    ),
    ({"input": [{"role": "user", "content": "REFUSE"}]}, "input", "invalid_value", "chat template"),
    ({"previous_response_id": "SECRET"}, "previous_response_id", "unsupported_parameter", "served"),
    ({"conversation": "SECRET"}, "conversation", "unsupported_parameter", "is not served"),
    ({"background": True}, "background", "unsupported_parameter", "is not served"),
    ({"store": True}, "store", "unsupported_parameter", "is not served"),
    ({"prompt": {"id": "SECRET"}}, "prompt", "unsupported_parameter", "is not served"),
    ({"messages": []}, "messages", "unknown_parameter", "is not known"),
    ({"n": 2}, "n", "unsupported_parameter", "is not served"),
    ({"truncation": "auto"}, "truncation", "invalid_value", "must be disabled"),
    ({"include": ["SECRET"]}, "include[0]", "invalid_value", "must be message.output_text.log"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value", "is only allowed where include has"),
    ({"stream_options": {}}, "stream_options", "invalid_value", "is only allowed when stream"),
    ({"text": {"verbosity": "low"}}, "text.verbosity", "invalid_value", "must be medium"),
    ({"text": {"format": {"type": "x"}}}, "text.format", "invalid_value", "its type must be text"),
    (
        {"text": {"format": {"type": "json_object"}}, "tools": [TOOL]},
        "text",
        "invalid_value",
        "text.format is served with tools only where tool_choice is none",
    ),
    ({"reasoning": {"summary": "detailed"}}, "reasoning.summary", "invalid_value", "must be auto"),
    ({"tools": [{"type": "web_search"}]}, "tools[0]", "invalid_value", "only tools of type functi"),
    ({"tools": [TOOL, TOOL]}, "tools", "invalid_value", "two functions have one name"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value", "tool_choice required needs"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "SECRET"}},
        "tool_choice",
        "invalid_value",
        "must name one of the tools",
    ),
]


async def test_nothing_is_ignored(tmp_path: Path) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        for changed, param, code, message in REFUSED:
            answer = await client.post(PATH, json=HELLO | changed)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == (400, param, code), error
            assert message in error["message"]
            assert "SECRET" not in answer.text
    assert not engine.submitted


async def test_failures(tmp_path: Path) -> None:
    engine = StandInEngine(lambda _: [Started(3, 7), Piece("x", 1), Failed(OutOfMemory("none"))])
    async with served(tmp_path, engine) as (client, worker):
        whole = await client.post(PATH, json=HELLO)
        streamed = await client.post(PATH, json=HELLO | {"stream": True})
        other = await client.post(PATH, json=HELLO | {"model": "gpt-5"})
        engine.refusal = ContextOverflow(3000, 1, 2048)
        long = await client.post(PATH, json=HELLO | {"stream": True})
        engine.refusal, engine.answer = None, endless
        async with openai.AsyncOpenAI(base_url=f"{worker.url}/v1", api_key="none") as api:
            gone = await api.responses.create(**HELLO, stream=True)
            assert (await anext(aiter(gone))).type == "response.created"
            await gone.close()
            await engine.wait(lambda: engine.live == 0 and len(engine.cancelled) == 1)
    assert whole.status_code == 507
    assert whole.json()["error"]["type"] == "server_error"
    last = events_of(streamed.text)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "none"}
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
    assert long.status_code == 400
    assert long.json()["error"]["code"] == "context_length_exceeded"
    assert long.json()["error"]["param"] == "input"


@pytest.fixture
async def qwen(
    tmp_path: Path, make_tool_artifact: MakeToolArtifact
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with asked_of(make_tool_artifact("qwen2"), tmp_path) as client:
        yield client


class Weather(BaseModel):
    """Tells the weather."""

    city: str = Field(max_length=6)
    unit: Literal["°C", "°F"]


async def test_clients_helpers(qwen: openai.AsyncOpenAI) -> None:
    """And what they return may come back."""
    schema = openai.pydantic_function_tool(Weather)["function"]["parameters"]
    tool: Any = {"type": "function", "name": "weather", "parameters": schema, "strict": True}
    asking: dict[str, Any] = {"model": "tiny", "input": "Rain in Köln?", "max_output_tokens": 300}
    calling = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    await qwen.responses.create(**asking | {"max_output_tokens": 16})
    seeded = {"extra_body": {"seed": 3}}
    called = await qwen.responses.create(**asking, **calling, **seeded)
    async with qwen.responses.stream(**asking, **calling, **seeded) as stream:
        async for _ in stream:
            pass
        streamed = await stream.get_final_response()
    shaped = await qwen.responses.parse(**asking, text_format=Weather)
    assert isinstance(shaped.output_parsed, Weather)
    [call] = called.output
    assert call.type == "function_call"
    Weather.model_validate_json(call.arguments)
    [same] = streamed.output
    assert same.type == "function_call"
    assert same.arguments == call.arguments
    items: list[Any] = [
        {"role": "user", "content": "Rain in Köln?"},
        *called.output,
        {"type": "function_call_output", "call_id": call.call_id, "output": "It pours"},
        *(one.model_dump() for one in shaped.output),
        {"role": "user", "content": "Thanks"},
    ]
    last = await qwen.responses.create(
        **asking | {"input": items, "max_output_tokens": 2}, tools=[tool]
    )
    assert last.status == "incomplete"
    assert last.usage is not None
    assert last.usage.output_tokens == 2
    assert last.usage.input_tokens > 50
