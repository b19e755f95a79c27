"""Chats with models that think first: asked by OpenAI's own client, and byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from stand_in import MODEL, StandInEngine, bodies, finished, served, text
from support.makers import MakeToolArtifact
from support.openai_client import asked_of
from support.thinkers import thinking_tokenizer

from rbee_runtime.constraint import AfterReasoning, JsonSchema, ToolCalls
from rbee_runtime.events import Event, Piece, Started, StopReason
from rbee_runtime.logprobs import TokenLogprobs
from rbee_runtime.reasoning import Reasoning, Stage
from rbee_runtime.request import Request

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
CHAT: dict[str, Any] = {"model": MODEL, "messages": HELLO}
NOW: dict[str, Any] = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
SAID = ("<thi", "nk>\nWell", ", <tool_call>", " well.\n", "</think>", "\n\n", "Hi", " 🐝")


def thinking(name: str, *pieces: str) -> StandInEngine:
    """Return an engine with a thinker's tokenizer that always says this, a token a piece."""
    return become(StandInEngine(), name, *pieces)


def become(
    engine: StandInEngine, name: str, *pieces: str, reason: StopReason = StopReason.EOS
) -> StandInEngine:
    """Have an engine be another one: to start a worker takes longer than to ask one."""
    events = [*text(*pieces)[:-1], finished(reason, len(pieces))]
    tokenizer: Any = thinking_tokenizer(name)
    engine.tokenizer, engine.answer = tokenizer, lambda _: events
    return engine


def golden(body: str) -> str:
    body = re.sub(r'"id":"chatcmpl-[0-9a-f]{32}"', '"id":"ID"', body)
    return re.sub(r'"created":\d{10}', '"created":NOW', body)


def chunk(delta: str, reason: str = "null") -> str:
    return (
        'data: {"id":"ID","object":"chat.completion.chunk","created":NOW,'
        '"model":"hf:test/stand-in","choices":[{"index":0,"delta":{'
        f'{delta}}},"logprobs":null,"finish_reason":{reason}}}],"usage":null}}\n\n'
    )


USAGE = (
    '"usage":{"prompt_tokens":3,"completion_tokens":8,"total_tokens":11,'
    '"prompt_tokens_details":{"cached_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":5}}'
)
STREAM = (
    chunk('"role":"assistant","content":""')
    + chunk('"reasoning_content":"Well"')
    + chunk('"reasoning_content":", <tool_call>"')
    + chunk('"reasoning_content":" well."')
    + chunk('"content":"Hi"')
    + chunk('"content":" 🐝"')
    + chunk("", '"stop"')
    + 'data: {"id":"ID","object":"chat.completion.chunk","created":NOW,'
    f'"model":"hf:test/stand-in","choices":[],{USAGE}}}\n\ndata: [DONE]\n\n'
)


async def test_byte_for_byte(tmp_path: Path) -> None:
    async with served(tmp_path, thinking("qwen3", *SAID)) as (client, _):
        asked = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
        streamed = await client.post("/v1/chat/completions", json=asked)
        whole = await client.post("/v1/chat/completions", json=CHAT)
    assert golden(streamed.text) == STREAM
    assert golden(whole.text) == (
        '{"id":"ID","object":"chat.completion","created":NOW,"model":"hf:test/stand-in",'
        '"choices":[{"index":0,"message":{"role":"assistant","content":"Hi 🐝",'
        '"reasoning_content":"Well, <tool_call> well.","refusal":null},"logprobs":null,'
        f'"finish_reason":"stop"}}],{USAGE}}}'
    )


FINAL = ("<|channel|>", "final", "<|message|>", "Yes")
HARMONY = ("<|channel|>", "analysis", "<|message|>", "Hm.", "<|end|>", "<|start|>", "assistant")
ENDS: list[tuple[str, tuple[str, ...], StopReason, str | None, str | None, int]] = [
    ("r1", ("Hm.", "</think>", "Yes"), StopReason.EOS, "Hm.", "Yes", 2),
    ("r1", ("Hm.", "</th"), StopReason.MAX_TOKENS, "Hm.</th", None, 2),
    ("r1", ("Hm.\n",), StopReason.STOP_SEQUENCE, "Hm.", None, 1),
    ("r1 without tokens", ("Hm.</thi", "nk>\n\n", "Yes"), StopReason.EOS, "Hm.", "Yes", 2),
    ("special", ("<think>", "Hm.", "</think>"), StopReason.EOS, "Hm.", "", 3),
    ("qwen3", ("Yes", " <think>"), StopReason.EOS, None, "Yes <think>", 0),
    ("qwen3", ("<think>", "\n\n", "</think>", "Yes"), StopReason.EOS, None, "Yes", 3),
    ("qwen3", ("<thi",), StopReason.MAX_TOKENS, None, "<thi", 0),
    ("qwen3", (), StopReason.EOS, None, "", 0),
    ("channels", (*HARMONY, *FINAL), StopReason.EOS, "Hm.", "Yes", 10),
    ("channels", FINAL, StopReason.EOS, None, "Yes", 0),
    ("channels", HARMONY[:4], StopReason.MAX_TOKENS, "Hm.", None, 4),
]


async def test_how_answers_end(tmp_path: Path) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        for name, pieces, reason, thought, content, tokens in ENDS:
            become(engine, name, *pieces, reason=reason)
            message = {"role": "assistant", "content": content, "reasoning_content": thought}
            for more in ({}, {"tools": [NOW]}):
                whole = (await client.post("/v1/chat/completions", json=CHAT | more)).json()
                asked = CHAT | more | {"stream": True}
                streamed = await client.post("/v1/chat/completions", json=asked)
                [choice] = whole["choices"]
                assert choice["message"] == message | {"refusal": None}, (name, pieces)
                cut_off = reason is StopReason.MAX_TOKENS
                assert choice["finish_reason"] == ("length" if cut_off else "stop")
                details = whole["usage"]["completion_tokens_details"]
                assert details == {"reasoning_tokens": tokens}, (name, pieces)
                deltas = [one["choices"][0]["delta"] for one in bodies(streamed.content)]
                assert [one["role"] for one in deltas if "role" in one] == ["assistant"]
                for key, told in (("content", content), ("reasoning_content", thought)):
                    assert "".join(one.get(key) or "" for one in deltas) == (told or "")
            form = engine.tokenizer.reasoning_form
            assert form is not None
            assert engine.submitted[-1].shown == form.shown


async def test_calls_come_after_it(tmp_path: Path) -> None:
    """And what looks like one in the reasoning is none."""
    engine = thinking("qwen3", f"<think>{CALL}</think>\n\n", CALL)
    async with served(tmp_path, engine) as (client, worker):
        body = CHAT | {"tools": [NOW], "n": 2}
        whole = (await client.post("/v1/chat/completions", json=body)).json()
        async with openai.AsyncOpenAI(base_url=f"{worker.url}/v1", api_key="none") as api:
            async with api.chat.completions.stream(**CHAT, tools=[NOW]) as stream:
                async for _ in stream:
                    pass
            streamed = (await stream.get_final_completion()).choices[0].message
    for choice in whole["choices"]:
        assert choice["finish_reason"] == "tool_calls"
        assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == (
            None,
            CALL,
        )
        assert [one["function"]["name"] for one in choice["message"]["tool_calls"]] == ["now"]
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert streamed.content is None
    assert streamed.model_dump()["reasoning_content"] == CALL
    assert [one.function.name for one in streamed.tool_calls or []] == ["now"]


async def test_log_probabilities_are_of_all_tokens(tmp_path: Path) -> None:
    pieces = ("<think>", "Hm", "</think>", "Yes")
    logprobs = [(TokenLogprobs(5 + n, -1.0, ()),) for n in range(5)]
    events: list[Event] = [Started(3, 7)]
    events += [Piece(one, n + 1, logprobs[n]) for n, one in enumerate(pieces)]
    events += [Piece("", 5, logprobs[4]), finished(tokens=5)]
    engine = thinking("qwen3")
    engine.answer = lambda _: events
    async with served(tmp_path, engine) as (client, _):
        asked = CHAT | {"logprobs": True}
        whole = (await client.post("/v1/chat/completions", json=asked)).json()
        streamed = await client.post("/v1/chat/completions", json=asked | {"stream": True})
    told = [
        len((one["choices"][0]["logprobs"] or {"content": []})["content"])
        for one in bodies(streamed.content)
    ]
    assert told == [0, 2, 2, 1, 0]
    assert len(whole["choices"][0]["logprobs"]["content"]) == 5


OFF = "<think>\n\n</think>\n\n"
TOLD: list[tuple[str, dict[str, Any], str, Stage]] = [
    ("qwen3", {}, "assistant\n", Stage.AHEAD),
    ("qwen3", {"chat_template_kwargs": {"enable_thinking": False}}, OFF, Stage.OVER),
    ("qwen3", {"reasoning_effort": "none"}, OFF, Stage.OVER),
    ("qwen3", {"reasoning_effort": "low"}, "assistant\n", Stage.AHEAD),
    (
        "qwen3",
        {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
        "assistant\n",
        Stage.AHEAD,
    ),
    ("r1", {"chat_template_kwargs": {"enable_thinking": False}}, "<think>\n", Stage.BEGUN),
    ("effort", {"reasoning_effort": "high"}, "[effort:high]", Stage.AHEAD),
    ("effort", {"reasoning_effort": "none"}, "[effort:none]", Stage.AHEAD),
    (
        "effort",
        {"chat_template_kwargs": {"reasoning_effort": "odd", "other": None}},
        "[effort:odd]",
        Stage.AHEAD,
    ),
]


async def test_how_much_a_model_is_to_think(tmp_path: Path) -> None:
    """And what it is held to is held to after that."""
    engine = StandInEngine()
    shaped = {"response_format": {"type": "json_object"}}
    schema = JsonSchema({"type": "object"}, "response_format")
    async with served(tmp_path, engine) as (client, _):
        for name, asked, ending, stage in TOLD:
            become(engine, name, "{}")
            for more in ({}, shaped, {"tools": [NOW], "tool_choice": "required"}):
                answer = await client.post("/v1/chat/completions", json=CHAT | asked | more)
                assert answer.status_code == 200, answer.text
                assert str(engine.submitted[-1].prompt).endswith(ending)
            plain, held, calling = (one.constraint for one in engine.submitted[-3:])
            assert plain is None
            if stage is Stage.OVER:
                assert held == schema
                assert isinstance(calling, ToolCalls)
                continue
            markers = ("[THINK]", "[/THINK]") if name == "effort" else ("<think>", "</think>")
            assert held == AfterReasoning(Reasoning(*markers, stage), schema)
            assert isinstance(calling, AfterReasoning)
            assert calling.reasoning == held.reasoning


NAMES = {f"x{n}": 1 for n in range(33)}


UNTOLD: list[tuple[str, dict[str, Any], str, str]] = [
    ("r1", {"reasoning_effort": "none"}, "reasoning_effort", "reads neither enable_thinking"),
    ("r1", {"reasoning_effort": "low"}, "reasoning_effort", "is not served with this model"),
    ("qwen3", {"reasoning_effort": "some"}, "reasoning_effort", "must be none, minimal, low"),
    ("qwen3", {"chat_template_kwargs": []}, "chat_template_kwargs", "must be an object"),
    (
        "qwen3",
        {"chat_template_kwargs": {"messages": []}},
        "chat_template_kwargs",
        "chat_template_kwargs: messages is given by this worker",
    ),
    ("qwen3", {"chat_template_kwargs": {"SECRET!": 1}}, "chat_template_kwargs", "must match"),
    ("qwen3", {"chat_template_kwargs": {"a": ["SECRET"]}}, "chat_template_kwargs", "a boolean"),
    (
        "qwen3",
        {"chat_template_kwargs": {"a": "x" * 1025}},
        "chat_template_kwargs",
        "at most 1024",
    ),
    ("qwen3", {"chat_template_kwargs": {"a": 10**99}}, "chat_template_kwargs", "a number"),
    ("qwen3", {"chat_template_kwargs": NAMES}, "chat_template_kwargs", "at most 32 members"),
]


async def test_what_it_is_not_told(tmp_path: Path) -> None:
    engine = StandInEngine()
    async with served(tmp_path, engine) as (client, _):
        for name, asked, param, message in UNTOLD:
            become(engine, name, "Hi")
            answer = await client.post("/v1/chat/completions", json=CHAT | asked)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == param
            assert message in answer.json()["error"]["message"]
            assert "SECRET" not in answer.text
    assert not engine.submitted


async def test_messages_that_come_back(tmp_path: Path) -> None:
    """By either name; a message with nothing but reasoning, as one that was cut off, too."""
    engine = thinking("effort", "Hi")
    said: list[dict[str, Any]] = [
        {"role": "assistant", "content": "A", "reasoning_content": "a"},
        {"role": "assistant", "content": "B", "reasoning": "b", "name": "bee"},
        {"role": "assistant", "content": "C", "reasoning_content": "c", "reasoning": "x"},
        {"role": "assistant", "content": None, "reasoning_content": "d"},
        {"role": "user", "content": "E", "name": "émile"},
    ]
    async with served(tmp_path, engine) as (client, _):
        for more in ({}, {"tools": [NOW]}):
            body = {"model": MODEL, "messages": said} | more
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    plain, told = (str(one.prompt) for one in engine.submitted)
    assert plain == (
        "[assistant][THINK]a[/THINK]A<|im_end|>[bee][THINK]b[/THINK]B<|im_end|>"
        "[assistant][THINK]c[/THINK]C<|im_end|>[assistant][THINK]d[/THINK]<|im_end|>"
        "[émile]E<|im_end|>[effort:usual]"
    )
    # A template that knows nothing of functions may want roles to take turns.
    assert "[/THINK]" in told
    assert told.endswith("[émile]E<|im_end|>[effort:usual]")


@pytest.fixture
async def qwen(
    tmp_path: Path, make_tool_artifact: MakeToolArtifact
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with asked_of(make_tool_artifact("qwen3"), tmp_path) as client:
        yield client


async def test_a_real_model_thinks_and_is_held_to_a_schema(qwen: openai.AsyncOpenAI) -> None:
    """A random one, which is pushed towards the markers; whole and streamed, with and without."""
    opening, closing = 384, 385
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": [1, "b"]}}}
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": HELLO,
        "max_completion_tokens": 300,
        "response_format": schema,
        "logit_bias": {str(opening): 6, str(closing): 5},
    }
    await qwen.chat.completions.create(**asked | {"max_completion_tokens": 1})
    thought = 0
    for seed in range(4):
        whole = await qwen.chat.completions.create(**asked, seed=seed)
        [choice] = whole.choices
        assert choice.finish_reason == "stop"
        assert json.loads(choice.message.content or "") in (1, "b")
        reasoning = choice.message.model_dump()["reasoning_content"]
        assert whole.usage is not None
        assert whole.usage.completion_tokens_details is not None
        tokens = whole.usage.completion_tokens_details.reasoning_tokens
        assert (tokens or 0) >= (1 if reasoning else 0)
        thought += bool(reasoning)
        told = {"content": "", "reasoning_content": ""}
        async for chunk in await qwen.chat.completions.create(**asked, seed=seed, stream=True):
            for key, value in chunk.choices[0].delta.model_dump(exclude_unset=True).items():
                if key in told:
                    told[key] += value
        assert told == {"content": choice.message.content, "reasoning_content": reasoning or ""}
    assert thought
    off = await qwen.chat.completions.create(**asked, reasoning_effort="none")
    assert off.choices[0].message.model_dump()["reasoning_content"] is None
    assert json.loads(off.choices[0].message.content or "") in (1, "b")


async def test_other_models_are_left_alone(tmp_path: Path) -> None:
    def answer(_: Request) -> list[Event]:
        return text("<think>\nHm.", "</think>", "\n\nYes")

    engine = StandInEngine(answer)
    async with served(tmp_path, engine) as (client, _):
        for effort in ({}, {"reasoning_effort": "none"}):
            whole = (await client.post("/v1/chat/completions", json=CHAT | effort)).json()
            message = whole["choices"][0]["message"]
            assert message == {
                "role": "assistant",
                "content": "<think>\nHm.</think>\n\nYes",
                "refusal": None,
            }
            assert "completion_tokens_details" not in whole["usage"]
