"""Several choices that call functions, and how likely the tokens of their calls were."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob
from stand_in import MODEL, StandInEngine, bodies, finished, served
from support.makers import MakeToolArtifact
from support.openai_client import asked_of

from rbee_runtime.events import Event, Piece, Started, StopReason
from rbee_runtime.logprobs import TokenLogprobs
from rbee_runtime.request import Request

HELLO: list[Any] = [{"role": "user", "content": "Rain in Köln?"}]
CITY = {"type": "string", "maxLength": 6}
WEATHER = {"type": "object", "properties": {"city": CITY}, "required": ["city"]}
WEATHER["additionalProperties"] = False
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
ASKING: dict[str, Any] = {
    "model": "tiny",
    "messages": HELLO,
    "max_completion_tokens": 200,
    "tools": TOOLS,
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "logprobs": True,
    "n": 2,
}


@pytest.fixture(params=["qwen2", "llama", "mistral"])
async def client(
    request: pytest.FixtureRequest, tmp_path: Path, make_tool_artifact: MakeToolArtifact
) -> AsyncIterator[openai.AsyncOpenAI]:
    artifact = make_tool_artifact(request.param)
    async with asked_of(artifact, tmp_path) as client:
        yield client


def written(tokens: list[ChatCompletionTokenLogprob]) -> str:
    """Return what a model wrote; of a special token its name."""
    return b"".join(
        token.token.encode() if token.bytes is None else bytes(token.bytes) for token in tokens
    ).decode(errors="replace")


async def test_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    # What of a prompt is known already decides in which order sums are made.
    await client.chat.completions.create(**ASKING | {"max_completion_tokens": 1})
    whole = await client.chat.completions.create(**ASKING, seed=4)
    told: list[list[ChatCompletionTokenLogprob]] = [[], []]
    calls: list[list[str]] = [[], []]
    ids, reasons = set(), [""] * 2
    stream = await client.chat.completions.create(**ASKING, seed=4, stream=True)
    async for chunk in stream:
        [choice] = chunk.choices
        assert not reasons[choice.index]
        reasons[choice.index] = choice.finish_reason or ""
        if choice.logprobs is not None:
            told[choice.index] += choice.logprobs.content or []
        for call in choice.delta.tool_calls or []:
            assert call.function is not None
            if call.id is not None:
                ids.add(call.id)
                calls[choice.index].append(f"{call.function.name} ")
            calls[choice.index][-1] += call.function.arguments or ""
    assert whole.usage is not None
    assert whole.usage.completion_tokens == sum(map(len, told))
    for choice in whole.choices:
        [call] = choice.message.tool_calls or []
        assert isinstance(call, openai.types.chat.ChatCompletionMessageFunctionToolCall)
        ids.add(call.id)
        name, arguments = call.function.name, call.function.arguments
        assert set(json.loads(arguments)) == ({"city"} if name == "weather" else set())
        assert calls[choice.index] == [f"{name} {arguments}"]
        assert choice.finish_reason == reasons[choice.index] == "tool_calls"
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        # Those of the syntax around it, too.
        before, around, _ = written(tokens).partition(name)
        assert before.strip()
        assert around
        assert arguments in written(tokens)
        assert [one.token for one in told[choice.index]] == [one.token for one in tokens]
    assert len(ids) == 4


def piece(text: str, *tokens: int) -> Piece:
    return Piece(text, 1, tuple(TokenLogprobs(token, -1.0, ()) for token in tokens))


CALLS = [
    Started(3, 7),
    piece("Well <tool", 1, 3),
    piece("_call>\n{", 4),
    piece('"name": "weather", "arguments": {"a"', 5, 6),
    piece(": 1}}\n", 7),
    piece("</tool_call>", 8),
    piece("", 9),
    finished(StopReason.EOS),
]
SAYS = [Started(3, 7), piece("No <tool", 11), piece("_", 12), finished(StopReason.EOS)]
IS_CUT = [
    Started(3, 7),
    piece("<tool_call>", 21),
    piece('{"name": "now", "arguments": {', 22, 23),
    finished(StopReason.MAX_TOKENS),
]


def answered(request: Request) -> list[Event]:
    _, _, index = request.request_id.partition("-")
    return [CALLS, SAYS, IS_CUT][int(index or 0)]


async def test_each_token_is_told_once(tmp_path: Path) -> None:
    """With what is said next of the same choice, be it that it ends."""
    body = {"model": MODEL, "messages": HELLO, "tools": TOOLS, "logprobs": True, "n": 3}
    async with served(tmp_path, StandInEngine(answered)) as (client, _):
        streamed = await client.post("/v1/chat/completions", json=body | {"stream": True})
        whole = await client.post("/v1/chat/completions", json=body)
    said: list[list[tuple[object, list[str], str | None]]] = [[], [], []]
    for chunk in bodies(streamed.content):
        [choice] = chunk["choices"]
        if "role" in choice["delta"]:
            assert not said[choice["index"]]
            continue
        delta, tokens = choice["delta"], (choice["logprobs"] or {"content": []})["content"]
        [call] = delta.get("tool_calls", [None])
        said[choice["index"]].append(
            (
                call["function"]["arguments"] if call else delta.get("content"),
                [token["token"] for token in tokens],
                choice["finish_reason"],
            )
        )
    assert said == [
        [
            ("Well ", ["<1>", "<3>"], None),
            ("", ["<4>", "<5>", "<6>"], None),
            ('{"a"', [], None),
            (": 1}", ["<7>"], None),
            (None, ["<8>", "<9>"], "tool_calls"),
        ],
        [("No ", ["<11>"], None), ("<tool_", ["<12>"], None), (None, [], "stop")],
        [("", ["<21>", "<22>", "<23>"], None), ("{", [], None), (None, [], "length")],
    ]
    for choice, chunks in zip(whole.json()["choices"], said, strict=True):
        told = [token["token"] for token in choice["logprobs"]["content"]]
        assert told == [token for _, tokens, _ in chunks for token in tokens]
        assert choice["finish_reason"] == chunks[-1][2]
    assert [choice["message"]["content"] for choice in whole.json()["choices"]] == [
        "Well ",
        "No <tool_",
        None,
    ]


@pytest.mark.parametrize(
    "held_to", [{"tools": TOOLS}, {"response_format": {"type": "json_object"}}, {}]
)
async def test_all_choices_are_held_to_one_object(tmp_path: Path, held_to: Any) -> None:
    """Which the engine compiles once."""
    engine = StandInEngine()
    body = {"model": MODEL, "messages": HELLO, "n": 3} | held_to
    async with served(tmp_path, engine) as (client, _):
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    first, *others = (one.constraint for one in engine.submitted)
    assert len(others) == 2
    assert (first is None) == (not held_to)
    assert all(one is first for one in others)
