"""Bodies of the OpenAI API that are nothing but faults: few of them are looked for."""

from __future__ import annotations

import tracemalloc

import pytest
from pydantic import BaseModel

from rbee_service.anthropic.request import MessagesRequest
from rbee_service.openai.embeddings import EmbeddingsRequest
from rbee_service.openai.errors import OpenAiError
from rbee_service.openai.parsing import parse_openai
from rbee_service.openai.requests import ChatRequest, TextRequest
from rbee_service.rerank_request import RerankBody

SIZE = 1 << 17
HELLO = '"messages":[{"role":"user","content":"Hello"}]'
USER = '{"role":"user"}'


def array_of(name: str, item: str) -> str:
    return f'"{name}":[{",".join([item] * (SIZE // (len(item) + 1)))}]'


def object_of(name: str, value: str) -> str:
    return f'"{name}":{{{members(value)}}}'


def members(value: str) -> str:
    return ",".join(f'"{number}":{value}' for number in range(SIZE // 8))


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (ChatRequest, array_of("messages", "1"), "messages[0] must be an object"),
        (
            ChatRequest,
            array_of("messages", "{}"),
            "messages[0].role is required; messages[0].content is required",
        ),
        (ChatRequest, array_of("messages", USER), "messages[0].content is required"),
        (
            ChatRequest,
            array_of("messages", '{"role":"user","content":""}'),
            "messages must have at most 2048 items",
        ),
        (
            ChatRequest,
            f"{HELLO},{object_of('logit_bias', '101')}",
            "logit_bias must have at most 1024 items",
        ),
        (
            ChatRequest,
            f"{HELLO},{members('1')}",
            "; ".join(f"{number} is not known to this worker" for number in range(8)),
        ),
        (
            MessagesRequest,
            f'"max_tokens":1,{array_of("messages", "{}")}',
            "messages[0]: its role must be user, assistant or system",
        ),
        (
            MessagesRequest,
            f'"max_tokens":1,"messages":[{{"role":"user",{array_of("content", "{}")}}}]',
            "messages[0].content[0]: only blocks of type text and tool_result are served here",
        ),
        (TextRequest, array_of("prompt", "-1"), "prompt[0] must be at least 0"),
        (EmbeddingsRequest, array_of("input", "-1"), "input[0] must be at least 0"),
        (
            RerankBody,
            array_of("documents", "1"),
            "query is required; documents[0]: must be a text, or an object with one",
        ),
    ],
)
def test_it_is_refused_for_a_few(model: type[BaseModel], body: str, message: str) -> None:
    text = f'{{"model":"m",{body}}}'.encode()
    tracemalloc.start()
    try:
        with pytest.raises(OpenAiError) as refused:
            parse_openai(model, text)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.message.startswith(message)
    # Each fault takes some kilobytes, and its time.
    assert most < 40 * len(text)
