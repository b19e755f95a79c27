"""Chats that call functions: asked by OpenAI's own client of real models, and byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import jsonschema_rs
import openai
import pytest
from pydantic import BaseModel, Field
from stand_in import MODEL, StandInEngine, bodies, finished, served, text
from support.makers import MakeArtifact, MakeToolArtifact
from support.openai_client import asked_of
from support.tool_families import FAMILIES

from rbee_runtime.constraint import Function, ToolCalls
from rbee_runtime.events import Event, Piece, Started, StopReason
from rbee_runtime.tools.in_words import FORM

HELLO: list[Any] = [{"role": "user", "content": "Rain in Köln?"}]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 6},
        "unit": {"enum": ["°C", "°F"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}


def tool(name: str, parameters: Any = None, **others: Any) -> Any:
    function = {"name": name, **others}
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


TOOLS: list[Any] = [tool("weather", WEATHER, description="Tells it", strict=True), tool("now")]
SCHEMAS = {"weather": WEATHER, "now": NOTHING}
ASKING: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 300}
CALL: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Köln", "unit": "°C"}'},
}
CALLED: list[Any] = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
TOLD: list[Any] = [*CALLED, {"role": "tool", "tool_call_id": "call_1", "content": "It pours"}]


@pytest.fixture(params=["qwen2", "llama", "mistral"])
async def client(
    request: pytest.FixtureRequest, tmp_path: Path, make_tool_artifact: MakeToolArtifact
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with asked_of(make_tool_artifact(request.param), tmp_path) as client:
        yield client


@pytest.fixture
async def qwen(
    tmp_path: Path, make_tool_artifact: MakeToolArtifact
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with asked_of(make_tool_artifact("qwen2"), tmp_path) as client:
        yield client


def require_valid(message: Any) -> None:
    """Let calls pass whose arguments are what was asked for, and whose ids differ."""
    for call in message.tool_calls:
        assert call.type == "function"
        jsonschema_rs.validate(SCHEMAS[call.function.name], json.loads(call.function.arguments))
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)


async def test_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    asking = ASKING | {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    # What of a prompt is known already decides in which order sums are made.
    await client.chat.completions.create(**asking | {"max_completion_tokens": 1})
    for seed in range(2):
        asking["seed"] = seed
        answer = await client.chat.completions.create(**asking)
        [choice] = answer.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        require_valid(choice.message)
        [call] = choice.message.tool_calls or []
        assert re.fullmatch("[a-zA-Z0-9]{9}", call.id)
        deltas, reasons, roles = [], [], []
        async for chunk in await client.chat.completions.create(**asking, stream=True):
            deltas += chunk.choices[0].delta.tool_calls or []
            reasons.append(chunk.choices[0].finish_reason)
            roles.append(chunk.choices[0].delta.role)
            assert chunk.choices[0].delta.content is None
        first, *others = deltas
        assert first.id is not None
        assert first.type == "function"
        assert first.function is not None
        assert (first.function.name, first.function.arguments) == (call.function.name, "")
        assert all(one.index == 0 and one.id is None and one.type is None for one in others)
        pieces = [one.function.arguments or "" for one in others if one.function is not None]
        assert "".join(pieces) == call.function.arguments
        assert all(pieces)
        assert roles == ["assistant", *[None] * (len(roles) - 1)]
        assert reasons[-1] == "tool_calls"
        assert set(reasons[:-1]) == {None}


async def test_the_one_that_is_named(client: openai.AsyncOpenAI) -> None:
    for name in SCHEMAS:
        answer = await client.chat.completions.create(
            **ASKING, tools=TOOLS, tool_choice={"type": "function", "function": {"name": name}}
        )
        [call] = answer.choices[0].message.tool_calls or []
        assert isinstance(call, openai.types.chat.ChatCompletionMessageFunctionToolCall)
        assert call.function.name == name
        require_valid(answer.choices[0].message)
        assert answer.choices[0].finish_reason == "tool_calls"


async def test_a_whole_conversation(client: openai.AsyncOpenAI) -> None:
    """What comes back of an answer may be sent as it is, with what came of its calls."""
    messages = [*HELLO]
    for _ in range(2):
        asking = ASKING | {"messages": messages, "max_completion_tokens": 200}
        answer = await client.chat.completions.create(
            **asking, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
        )
        message = answer.choices[0].message
        messages.append(message.model_dump())
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": "Fine"}
            for call in message.tool_calls or []
        ]
    last = await client.chat.completions.create(
        **ASKING | {"messages": messages, "max_completion_tokens": 5}, tools=TOOLS
    )
    assert last.usage is not None
    assert last.usage.prompt_tokens > 50


class Weather(BaseModel):
    """Tells the weather."""

    city: str = Field(max_length=6)
    unit: Literal["°C", "°F"]


async def test_clients_helpers(qwen: openai.AsyncOpenAI) -> None:
    tools = [openai.pydantic_function_tool(Weather, name="weather")]
    asking = ASKING | {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
    parsed = await qwen.chat.completions.parse(**asking)
    [call] = parsed.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Weather)
    kinds = set()
    async with qwen.chat.completions.stream(**asking) as stream:
        async for event in stream:
            kinds.add(event.type)
        final = await stream.get_final_completion()
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert not {"content.delta", "content.done"} & kinds
    assert final.choices[0].message.content is None
    [call] = final.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Weather)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of what the client made itself
async def test_what_clients_helpers_return_may_come_back(qwen: openai.AsyncOpenAI) -> None:
    tools = [openai.pydantic_function_tool(Weather, name="weather")]
    asking = ASKING | {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
    parsed = await qwen.chat.completions.parse(**asking)
    async with qwen.chat.completions.stream(**asking) as stream:
        streamed = await stream.get_final_completion()
    shaped = await qwen.chat.completions.parse(**ASKING, response_format=Weather)
    for answer in (parsed, streamed, shaped):
        message = answer.choices[0].message
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "Fine"}
            for call in message.tool_calls or []
        ]
        for said in (message, message.model_dump()):
            asking = ASKING | {"messages": [*HELLO, said, *results], "max_completion_tokens": 2}
            assert (await qwen.chat.completions.create(**asking, tools=tools)).choices
    [call] = streamed.choices[0].message.model_dump()["tool_calls"]
    assert call["index"] == 0
    assert call["function"]["parsed_arguments"]
    assert shaped.choices[0].message.model_dump()["parsed"]


async def test_text_and_then_calls(qwen: openai.AsyncOpenAI) -> None:
    """As soon as the model begins one by itself: here, because it is pushed towards it."""
    marker = FAMILIES["qwen2"].plain.index("<tool_call>") + 384
    asking = ASKING | {"tools": TOOLS, "logit_bias": {str(marker): 6}}
    await qwen.chat.completions.create(**asking | {"max_completion_tokens": 1})
    both = 0
    for seed in range(6):
        answer = await qwen.chat.completions.create(**asking, seed=seed)
        message = answer.choices[0].message
        assert "<tool_call>" not in (message.content or "")
        async with qwen.chat.completions.stream(**asking, seed=seed) as stream:
            async for _ in stream:
                pass
            streamed = (await stream.get_final_completion()).choices[0]
        assert (streamed.message.content or "") == (message.content or "")
        assert streamed.finish_reason == answer.choices[0].finish_reason
        if answer.choices[0].finish_reason == "tool_calls":
            require_valid(message)
            both += message.content is not None
            told = [call.function.arguments for call in streamed.message.tool_calls or []]
            assert told == [call.function.arguments for call in message.tool_calls or []]
    assert both


async def test_a_call_that_is_cut_off_says_so(qwen: openai.AsyncOpenAI) -> None:
    asking = ASKING | {"tools": TOOLS, "seed": 3}
    asking |= {"tool_choice": {"type": "function", "function": {"name": "weather"}}}
    whole = await qwen.chat.completions.create(**asking)
    [all_of_it] = whole.choices[0].message.tool_calls or []
    assert whole.usage is not None
    seen = set()
    for bound in range(1, whole.usage.completion_tokens, 5):
        cut = await qwen.chat.completions.create(**asking | {"max_completion_tokens": bound})
        [choice] = cut.choices
        assert choice.finish_reason == "length"
        assert not choice.message.content
        for call in choice.message.tool_calls or []:
            beginning = call.function.arguments.rstrip("\ufffd")
            assert all_of_it.function.arguments.startswith(beginning)
            seen.add(call.function.name)
    assert seen == {"weather"}


async def test_a_real_model_that_knows_nothing_of_functions(
    tmp_path: Path, sample_gguf: Path, make_artifact: MakeArtifact
) -> None:
    async with asked_of(make_artifact(sample_gguf), tmp_path) as client:
        asking = ASKING | {"messages": [{"role": "user", "content": "What is 17 plus 25?"}]}
        number = {"type": "integer", "minimum": 0, "maximum": 99}
        add = {"type": "object", "properties": {"a": number, "b": number}, "required": ["a", "b"]}
        add["additionalProperties"] = False
        answer = await client.chat.completions.create(
            **asking, tools=[tool("add", add), tool("now")], tool_choice="required", temperature=0
        )
        assert answer.choices[0].finish_reason == "tool_calls"
        [call] = answer.choices[0].message.tool_calls or []
        assert isinstance(call, openai.types.chat.ChatCompletionMessageFunctionToolCall)
        assert call.function.name == "add"
        assert json.loads(call.function.arguments) == {"a": 17, "b": 25}


CHAT: dict[str, Any] = {"model": MODEL, "messages": HELLO, "tools": TOOLS}


async def test_the_engine_gets_what_was_asked_for(tmp_path: Path) -> None:
    engine = StandInEngine(lambda _: text("Hm"))
    named = {"type": "function", "function": {"name": "now"}}
    async with served(tmp_path, engine) as (client, _):
        for changed in (
            {},
            {"tool_choice": "auto", "parallel_tool_calls": False},
            {"tool_choice": "required", "response_format": {"type": "text"}},
            {"tool_choice": named},
        ):
            answer = await client.post("/v1/chat/completions", json=CHAT | changed)
            assert answer.status_code == 200
    weather = Function("weather", WEATHER, "tools[0].function.parameters")
    now = Function("now", NOTHING, "tools[1].function.parameters")
    assert [one.constraint for one in engine.submitted] == [
        ToolCalls((weather, now), FORM),
        ToolCalls((weather, now), FORM, parallel=False),
        ToolCalls((weather, now), FORM, required=True),
        ToolCalls((now,), FORM, required=True, parallel=False),
    ]
    for one in engine.submitted:
        assert '"name": "weather", "description": "Tells it"' in str(one.prompt)


async def test_what_may_not_be_called_is_not_told(tmp_path: Path) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        for changed in (
            {"tool_choice": "none"},
            {"tool_choice": "none", "messages": TOLD, "response_format": {"type": "json_object"}},
        ):
            answer = await client.post("/v1/chat/completions", json=CHAT | changed)
            assert answer.status_code == 200
    plain, told = engine.submitted
    assert plain.prompt == "user: Rain in Köln?\nassistant:"
    assert plain.constraint is None
    assert told.constraint is not None
    assert told.prompt == (
        "user: Rain in Köln?\n"
        'assistant: <tool_call>\n{"name": "weather", "arguments": {"city": "Köln", "unit": "°C"}}\n'
        "</tool_call>\nuser: <tool_response>\nIt pours\n</tool_response>\nassistant:"
    )


STREAM = """\
data: {"id":"ID","object":"chat.completion.chunk","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,\
"finish_reason":null}]}

data: {"id":"ID","object":"chat.completion.chunk","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"delta":{"content":"Well "},"logprobs":null,"finish_reason":null}]}

data: {"id":"ID","object":"chat.completion.chunk","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"CALL","type":"function",\
"function":{"name":"weather","arguments":""}}]},"logprobs":null,"finish_reason":null}]}

data: {"id":"ID","object":"chat.completion.chunk","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\\"a\\""}}]},\
"logprobs":null,"finish_reason":null}]}

data: {"id":"ID","object":"chat.completion.chunk","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":": 1}"}}]},\
"logprobs":null,"finish_reason":null}]}

data: {"id":"ID","object":"chat.completion.chunk","created":NOW,"model":"hf:test/stand-in",\
"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}]}

data: [DONE]

"""
SAID = (
    "Well <tool",
    "_call>\n{",
    '"name": "weather", "arguments": {"a"',
    ": 1}}\n",
    "</tool_call>",
)


async def test_byte_for_byte(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine(lambda _: text(*SAID))) as (client, _):
        streamed = await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
        whole = await client.post("/v1/chat/completions", json=CHAT)
    told = re.sub(r'"id":"chatcmpl-[0-9a-f]{32}"', '"id":"ID"', streamed.text)
    told = re.sub(r'"id":"[0-9a-zA-Z]{9}"', '"id":"CALL"', told)
    assert re.sub(r'"created":\d{10}', '"created":NOW', told) == STREAM
    [choice] = whole.json()["choices"]
    [call] = choice["message"].pop("tool_calls")
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "Well ", "refusal": None},
        "logprobs": None,
        "finish_reason": "tool_calls",
    }
    assert call.pop("id").isalnum()
    assert call == {"type": "function", "function": {"name": "weather", "arguments": '{"a": 1}'}}


Ended = tuple[str, StopReason, str | None, str | None, str]


@pytest.mark.parametrize(
    "end",
    [
        ("Hi", StopReason.EOS, "Hi", None, "stop"),
        ("", StopReason.EOS, "", None, "stop"),
        ("a <tool_", StopReason.EOS, "a <tool_", None, "stop"),
        ("a <tool_", StopReason.MAX_TOKENS, "a ", None, "length"),
        ("a <tool_call>", StopReason.MAX_TOKENS, "a ", None, "length"),
        ('<tool_call>{"name":"now","arguments":', StopReason.MAX_TOKENS, None, "", "length"),
        ('<tool_call>{"name":"now","arguments":{"', StopReason.STOP_SEQUENCE, None, '{"', "stop"),
        ('<tool_call>{"name":"now","arguments":{}', StopReason.EOS, None, "{}", "tool_calls"),
    ],
)
async def test_how_an_answer_ends(tmp_path: Path, end: Ended) -> None:
    said, reason, content, arguments, finish = end
    pieces: list[Event] = [Piece(said, 1)] if said else []
    engine = StandInEngine(lambda _: [Started(3, 7), *pieces, finished(reason)])
    async with served(tmp_path, engine) as (client, _):
        whole = await client.post("/v1/chat/completions", json=CHAT)
        streamed = await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    [choice] = whole.json()["choices"]
    calls = choice["message"].get("tool_calls")
    assert choice["message"]["content"] == content
    assert (calls and calls[0]["function"]["arguments"]) == arguments
    assert choice["finish_reason"] == finish
    chunks = [chunk["choices"][0] for chunk in bodies(streamed.content)]
    contents = [chunk["delta"]["content"] for chunk in chunks if "content" in chunk["delta"]]
    assert (contents == [None]) if content is None else ("".join(contents) == content)
    assert chunks[0]["delta"]["role"] == "assistant"
    assert chunks[-1]["finish_reason"] == finish


MANY = [tool(f"f{n}") for n in range(129)]


@pytest.mark.parametrize(
    ("changed", "param", "message"),
    [
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "must be function"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "is required"),
        ({"tools": [tool("a b")]}, "tools[0].function.name", "must match ^[a-zA-Z0-9_-]{1,64}$"),
        ({"tools": [tool("a", [])]}, "tools[0].function.parameters", "must be an object"),
        ({"tools": [tool("a", lax=1)]}, "tools[0].function.lax", "is not known to this worker"),
        ({"tools": [tool("a"), tool("a")]}, "tools", "two functions have one name"),
        ({"tools": MANY}, "tools", "must have at most 128 items"),
        ({"tools": "a"}, "tools", "must be an array"),
        (
            {"tools": [], "tool_choice": "required"},
            "tool_choice",
            "tool_choice required needs tools",
        ),
        (
            {"tool_choice": {"type": "function", "function": {"name": "SECRET"}}},
            "tool_choice",
            "tool_choice must name one of the tools",
        ),
        ({"tool_choice": "any"}, "tool_choice", "must be none, auto or required"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice", "required or a function by its name"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "is required"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls", "must be a boolean"),
        (
            {"response_format": {"type": "json_object"}},
            "response_format",
            "response_format is served with tools only where tool_choice is none",
        ),
        ({"functions": [{"name": "a"}]}, "functions", "is not served"),
        ({"messages": [{"role": "assistant"}]}, "messages[0]", "must have content or tool_calls"),
        ({"messages": [*CALLED, {"role": "tool"}]}, "messages[2].content", "is required"),
        (
            {"messages": [*CALLED, {"role": "tool", "content": "x"}]},
            "messages[2].tool_call_id",
            "is required",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]},
            "messages[0].tool_calls[0].type",
            "is required",
        ),
        *(
            (
                {
                    "messages": [
                        {
                            "role": "assistant",
                            "tool_calls": [
                                CALL | {"function": {"name": "a", "arguments": arguments}}
                            ],
                        }
                    ]
                },
                "messages[0].tool_calls[0].function.arguments",
                "must be a JSON object, written as a string",
            )
            for arguments in ("SECRET", "[]", '{"a": ', "[" * 100_000, r'{"a": "\ud800"}')
        ),
    ],
)
async def test_what_is_refused(tmp_path: Path, changed: Any, param: str, message: str) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        answer = await client.post("/v1/chat/completions", json=CHAT | changed)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert message in answer.json()["error"]["message"]
    assert "SECRET" not in answer.text
    assert not engine.submitted


async def test_a_schema_that_cannot_be_enforced(qwen: openai.AsyncOpenAI) -> None:
    tools = [tool("now"), tool("f", {"properties": {"a": {"uniqueItems": True}}})]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            await qwen.chat.completions.create(**ASKING, tools=tools, stream=stream)
        assert refused.value.param == "tools[1].function.parameters"
        assert (
            "tools[1].function.parameters at /properties/a: uniqueItems cannot be enforced"
            in refused.value.message
        )


async def test_only_chats_have_tools(tmp_path: Path) -> None:
    async with served(tmp_path, StandInEngine()) as (client, _):
        for field, value in (("tools", TOOLS), ("tool_choice", "auto")):
            body = {"model": MODEL, "prompt": "x", field: value}
            answer = await client.post("/v1/completions", json=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == "unsupported_parameter"
            assert answer.json()["error"]["param"] == field
