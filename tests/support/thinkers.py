"""Chat templates of models that think before they answer, in the manner of those named."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import tokenizers

from rbee_runtime.tokenizer import Tokenizer

from .tiny_tokenizer import CHAT_TEMPLATE, IM_END, IM_START, tokenizer_json
from .tool_families import FAMILIES

_THINK: Final = ("<think>", "</think>")
# It opens the reasoning in the prompt, and leaves that of earlier answers out.
_R1 = r"""{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {%- set content = message['content'] %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1] %}
        {%- endif %}
        {{- '<｜Assistant｜>' + content + eos_token }}
    {%- else %}{{- '<｜User｜>' + message['content'] }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\n' }}{%- endif %}"""
# Its effort is an argument, and names are read.
_EFFORT = r"""
{%- for message in messages %}
    {{- '[' + (message.name or message.role) + ']' }}
    {%- if message.reasoning_content %}{{- '[THINK]' + message.reasoning_content + '[/THINK]' }}
    {%- endif %}
    {{- message.content + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[effort:' + (reasoning_effort or 'usual') + ']' }}
{%- endif %}"""

# Messages are in channels, and reasoning that came before other messages is left out.
_CHANNELS = r"""
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {{- '<|start|>assistant to=functions.' + message.tool_calls[0].function.name }}
        {{- '<|channel|>commentary json<|message|>' }}
        {{- message.tool_calls[0].function.arguments|tojson + '<|call|>' }}
    {%- elif message.role == 'assistant' %}
        {%- if loop.last and message.thinking %}
            {{- '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' }}
        {%- endif %}
        {{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}
    {%- else %}{{- '<|start|>' + message.role + '<|message|>' }}
        {%- for tool in tools or [] if message.role == 'system' %}{{- tool|tojson }}{% endfor %}
        {{- message.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""


@dataclass(frozen=True, slots=True)
class Thinker:
    """A model that thinks.

    Attributes:
        template: Its chat template.
        plain: Tokens of its vocabulary that are text.
        specials: And those that are not.
    """

    template: str
    plain: tuple[str, ...] = ()
    specials: tuple[str, ...] = ()


THINKERS: Final = MappingProxyType(
    {
        "qwen3": Thinker(FAMILIES["qwen3"].template, FAMILIES["qwen3"].plain),
        "r1": Thinker(_R1, _THINK, ("<｜User｜>", "<｜Assistant｜>")),
        "r1 without tokens": Thinker(_R1),
        "special": Thinker(CHAT_TEMPLATE, specials=_THINK),
        "channels": Thinker(
            _CHANNELS,
            specials=("<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|call|>"),
        ),
        "effort": Thinker(_EFFORT, specials=("[THINK]", "[/THINK]")),
    }
)


def thinking_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of one of them."""
    thinker = THINKERS[name]
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json())
    tokenizer.add_special_tokens(list(thinker.specials))
    tokenizer.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in thinker.plain])
    return Tokenizer(tokenizer, thinker.template, IM_START, IM_END)
