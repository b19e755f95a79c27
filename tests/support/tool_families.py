"""Chat templates that know functions, in the manner of those that the families named come with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import tokenizers

from rbee_runtime.constraint import CallForm
from rbee_runtime.tokenizer import Tokenizer

from .tiny_tokenizer import IM_END, IM_START, tokenizer_json

_HERMES_SYSTEM = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- 'Functions are listed in <tools></tools>:\n<tools>' }}
    {%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\n</tools>\nAnswer <tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call>' }}
    {{- '<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}"""
_HERMES_RESULT = r"""
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != "tool" %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
_QWEN2 = (
    _HERMES_SYSTEM
    + r"""
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first)
        or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}"""
    + _HERMES_RESULT
)
_QWEN3 = (
    _HERMES_SYSTEM
    + r"""
{%- set ns = namespace(seeking=true, last_question=messages | length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.seeking and message.role == "user" and message.content is string %}
        {%- set ns.seeking = false %}
        {%- set ns.last_question = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content if message.content is string else '' %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_question and (loop.last or thought) %}
            {{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}
            {{- content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}"""
    + _HERMES_RESULT
    + r"""
{%- if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}
    {{- '<think>\n\n</think>\n\n' }}
{%- endif %}"""
)
_LLAMA = r"""{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" + system_message + "<|im_end|>" }}
{%- if tools is not none %}
    {%- set first_user_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
    {{- '<|start_header_id|>user<|end_header_id|>\n\n' }}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary}.\n\n' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\n\n" }}{%- endfor %}
    {{- first_user_message + "<|im_end|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
        {{- message['content'] | trim + '<|im_end|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception("This model calls one function at a time") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|im_end|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" + message.content + "<|im_end|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""
_MISTRAL = r"""
{%- set loop_messages = messages[1:] if messages[0]["role"] == "system" else messages %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined
        and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] " + tools | tojson + "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function | tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id | length != 9 %}
                {{- raise_exception("ids of calls must have 9 letters or digits") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {{- ", " if not loop.last else "]" + eos_token }}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content | string + ', "call_id": "' }}
        {{- message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}"""
_NAMED = r"""{{- bos_token + (tools | tojson if tools else "") }}
{%- for message in messages %}
    {%- if message.role == "user" %}{{- "[INST]" + message.content + "[/INST]" }}
    {%- elif message.role == "tool" %}
        {{- "[TOOL_RESULTS]" + message.tool_call_id + "[TOOL_CONTENT]" + message.content }}
    {%- elif message.role == "assistant" %}
        {{- message.content }}
        {%- for call in message.tool_calls or () %}
            {{- "[TOOL_CALLS]" + call.function.name + "[ARGS]" + call.function.arguments }}
        {%- endfor %}
        {{- eos_token }}
    {%- endif %}
{%- endfor %}"""
_DEEPSEEK = r"""{{- bos_token + (tools | tojson if tools else "") }}
{%- for message in messages %}
    {%- if message.role == "user" %}{{- "<｜User｜>" + message.content }}
    {%- elif message.role == "assistant" and message.content is none %}
        {%- for call in message.tool_calls %}
            {{- "<｜Assistant｜><｜calls▁begin｜>" if loop.first else "\n" }}
            {{- "<｜call▁begin｜>" + call.type + "<｜sep｜>" + call.function.name + "\n```json\n" }}
            {{- call.function.arguments + "\n```<｜call▁end｜>" }}
        {%- endfor %}
        {{- "<｜calls▁end｜>" + eos_token }}
    {%- elif message.role == "assistant" %}
        {{- "<｜Assistant｜>" + message.content + eos_token }}
    {%- elif message.role == "tool" %}{{- "<｜output｜>" + message.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<｜Assistant｜>" }}{%- endif %}"""


@dataclass(frozen=True, slots=True)
class Family:
    """How a family is told of functions and writes calls.

    Attributes:
        template: Its chat template.
        form: How it writes calls.
        specials: Special tokens that its vocabulary has for it.
        plain: Tokens that it has for it and that are text.
    """

    template: str
    form: CallForm
    specials: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()


_HERMES: Final = CallForm(
    opening='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    between='}\n</tool_call>\n<tool_call>\n{"name": "',
    closing="}\n</tool_call>",
    marker="<tool_call>",
)
_HERMES_TOKENS: Final = ("<tool_call>", "</tool_call>")

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "qwen2": Family(_QWEN2, _HERMES, plain=_HERMES_TOKENS),
        "qwen3": Family(_QWEN3, _HERMES, plain=("<think>", "</think>", *_HERMES_TOKENS)),
        "hermes without tokens": Family(_QWEN2, _HERMES),
        "llama": Family(
            _LLAMA,
            CallForm('{"name": "', '", "parameters": ', None, "}", "{", marks_anywhere=False),
            specials=("<|start_header_id|>", "<|end_header_id|>"),
        ),
        "mistral": Family(
            _MISTRAL,
            CallForm(
                opening='[TOOL_CALLS] [{"name": "',
                middle='", "arguments": ',
                between='}, {"name": "',
                closing="}]",
                marker="[TOOL_CALLS]",
            ),
            specials=("[INST]", "[/INST]", "[TOOL_CALLS]"),
        ),
        "mistral with names": Family(
            _NAMED,
            CallForm("[TOOL_CALLS]", "[ARGS]", "[TOOL_CALLS]", "", "[TOOL_CALLS]"),
            specials=("[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]"),
        ),
        "deepseek": Family(
            _DEEPSEEK,
            CallForm(
                opening="<｜calls▁begin｜><｜call▁begin｜>function<｜sep｜>",
                middle="\n```json\n",
                between="\n```<｜call▁end｜>\n<｜call▁begin｜>function<｜sep｜>",
                closing="\n```<｜call▁end｜><｜calls▁end｜>",
                marker="<｜calls▁begin｜>",
            ),
            specials=(
                *("<｜User｜>", "<｜Assistant｜>", "<｜calls▁begin｜>", "<｜calls▁end｜>"),
                *("<｜call▁begin｜>", "<｜call▁end｜>", "<｜sep｜>"),
            ),
        ),
    }
)
VOCAB: Final = 400
"""Room for the tokens of any family."""


def tokenizer_of(family: Family) -> tokenizers.Tokenizer:
    """Return the tiny tokenizer with the tokens of a family."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json())
    tokenizer.add_special_tokens(list(family.specials))
    tokenizer.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in family.plain])
    assert tokenizer.get_vocab_size() <= VOCAB
    return tokenizer


def open_family(family: Family) -> Tokenizer:
    """Return a family's tokenizer as the runtime has it."""
    return Tokenizer(tokenizer_of(family), family.template, IM_START, IM_END)


def save_tool_family(checkpoint: Path, directory: Path, family: Family) -> Path:
    """Copy a checkpoint of ``VOCAB`` tokens, and give it a family's tokenizer and template."""
    copied = Path(shutil.copytree(checkpoint, directory))
    (copied / "tokenizer.json").write_text(tokenizer_of(family).to_str(), encoding="utf-8")
    file = copied / "tokenizer_config.json"
    options = json.loads(file.read_text(encoding="utf-8")) | {"chat_template": family.template}
    file.write_text(json.dumps(options), encoding="utf-8")
    return copied
