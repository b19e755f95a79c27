"""Chat templates that strangers wrote: the usual ones render, the hostile ones cost little."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest

from rbee_runtime import chat_allowance
from rbee_runtime.chat_template import BadTemplate, ChatTemplate

CHAT = [
    {"role": "system", "content": " Be <brief>. "},
    {"role": "user", "content": "What's up & where? 🙂"},
    {"role": "assistant", "content": "<think>hm</think>\n\nFine."},
    {"role": "user", "content": "1+1?"},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells <what> it's like à Paris & elsewhere",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = [
    {"role": "user", "content": "Rain?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
        ],
    },
    {"role": "tool", "name": "weather", "content": {"rain": True}},
]

# Written in the manner of the templates that the families named come with.
LLAMA = """{{- bos_token }}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") | length | string %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- set first_user_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("Only one call at a time") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
QWEN = """{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string
        and not(message.content.startswith('<tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content =
                content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning_content.strip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>' }}{%- endif %}
{%- endif %}"""
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] | trim + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/...") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""
MISTRAL = """{%- set user_messages = messages | selectattr("role", "equalto", "user") | list %}
{%- set names = messages | map(attribute="role") | unique | join(",") %}
{{- bos_token + names }}
{%- for message in messages | rejectattr("role", "equalto", "system") %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
            {%- endfor %}
            {{- "][/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " ~ message["content"] ~ "[/INST]" }}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}"""
DEEPSEEK = (
    "{% if not add_generation_prompt is defined %}"
    "{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(is_first=false, system_prompt='') %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}"
    "{{bos_token}}{{ns.system_prompt}}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{'<｜User｜>' + message['content']}}{%- endif %}"
    "{%- if message['role'] == 'assistant' and message['content'] is not none %}"
    "{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}"
    "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"
)
PHI = (
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and "
    "message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['tools'] }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
SMOLLM3 = """{# header #}
{%- macro turn(role, content) -%}
<|im_start|>{{ role }}
{{ content }}<|im_end|>
{% endmacro -%}
{%- for message in messages -%}
    {%- if message.role == "assistant" -%}
        {% generation %}{{ turn("assistant", message.content) }}{% endgeneration %}
    {%- else -%}
        {{ turn(message.role, message.content) }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<|im_start|>assistant\\n" }}{%- endif -%}"""


def render(source: str, messages: Any = CHAT, tools: Any = None, **more: Any) -> str:
    named = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
    return ChatTemplate(source).render({"messages": messages, "tools": tools, **named, **more})


@pytest.mark.parametrize(
    ("source", "messages", "tools", "expected"),
    [
        (
            LLAMA,
            CHAT[:2],
            None,
            "<s><|start_header_id|>system<|end_header_id|>\n\nToday: 11\n\nBe <brief>.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nWhat's up & where? 🙂<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            QWEN,
            CHAT,
            None,
            "<|im_start|>system\n Be <brief>. <|im_end|>\n"
            "<|im_start|>user\nWhat's up & where? 🙂<|im_end|>\n"
            "<|im_start|>assistant\nFine.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            GEMMA,
            CHAT,
            None,
            "<s><start_of_turn>user\nBe <brief>.\n\nWhat's up & where? 🙂<end_of_turn>\n"
            "<start_of_turn>model\n<think>hm</think>\n\nFine.<end_of_turn>\n"
            "<start_of_turn>user\n1+1?<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            MISTRAL,
            CHAT,
            TOOLS,
            "<s>system,user,assistant[INST] What's up & where? 🙂[/INST] <think>hm</think>\n\n"
            'Fine.</s>[AVAILABLE_TOOLS] [{"type": "function", "function": {"name": "weather", '
            '"description": "Tells <what> it\'s like à Paris & elsewhere", "parameters": '
            '{"type": "object", "properties": {"city": {"type": "string"}}}}}]'
            "[/AVAILABLE_TOOLS][INST] 1+1?[/INST]",
        ),
        (
            DEEPSEEK,
            CHAT,
            None,
            "<s> Be <brief>. <｜User｜>What's up & where? 🙂<｜Assistant｜>\n\nFine."
            "<｜end▁of▁sentence｜><｜User｜>1+1?<｜Assistant｜><think>\n",
        ),
        (PHI, CHAT[3:], None, "<|user|>1+1?<|end|><|assistant|>"),
        (
            SMOLLM3,
            CHAT[2:],
            None,
            "<|im_start|>assistant\n<think>hm</think>\n\nFine.<|im_end|>\n"
            "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
    ids=["llama", "qwen", "gemma", "mistral", "deepseek", "phi", "smollm3"],
)
def test_templates_in_the_manner_of_the_families(
    source: str, messages: Any, tools: Any, expected: str
) -> None:
    assert render(source, messages, tools) == expected


def test_tools_and_their_results_are_written_as_json_with_every_character_kept() -> None:
    prompt = render(LLAMA, CALL, TOOLS)
    assert '"description": "Tells <what> it\'s like à Paris & elsewhere",\n' in prompt
    assert '{"name": "weather", "parameters": {"city": "Köln"}}<|eot_id|>' in prompt
    assert 'ipython<|end_header_id|>\n\n{"rain": true}<|eot_id|>' in prompt


def test_a_template_may_refuse_a_chat() -> None:
    with pytest.raises(BadTemplate, match="roles must alternate"):
        render(GEMMA, [CHAT[1], CHAT[1]])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "{{ [1, 2] + [3] }} {{ 'a' * 3 }} {{ 7 // 2 ** 1 }} {{ 'x%s' % 5 }}",
            "[1, 2, 3] aaa 3 x5",
        ),
        ("{{ 'a' ~ 1 ~ none ~ [2] }}", "a1None[2]"),
        ("{{ '{:>4}|{x}'.format(7, x='y') }} {{ '%03d' | format(7) }}", "   7|y 007"),
        ("{{ ', '.join(['a', 'b']) }} {{ [1, 2] | join('-') }}", "a, b 1-2"),
        ("{{ [{'a': 1}, {'a': 2}] | join('-', attribute='a') }}", "1-2"),
        ("{{ 'aXa'.replace('a', 'bb') }} {{ 'aXa' | replace('a', 'b', 1) }}", "bbXbb bXa"),
        (
            "{{ 'a\nb' | indent(2) }} {{ 'a\n\nb' | indent(1, true, true) }}",
            "a\n  b  a\n \n b",
        ),
        ("{{ [1, 2.5] | sum }} {{ [{'n': 1}, {'n': 2}] | sum('n', 4) }}", "3.5 7"),
        ("{{ {'b': 1, 'a': [none, true]} | tojson }}", '{"b": 1, "a": [null, true]}'),
        ("{{ {'a': '<é>'} | tojson(indent=1) }}", '{\n "a": "<é>"\n}'),
        (
            "{% set n = namespace(x=1) %}{% for i in range(4) %}{% set n.x = n.x + i %}"
            "{% endfor %}{{ n.x }} {{ n }}",
            "7 <namespace>",
        ),
        ("{% for a, b in {'k': 1}.items() %}{{ a }}{{ b }}{% endfor %}", "k1"),
        (
            "{% for i in range(9) if i % 2 %}{{ i }}"
            "{% if i > 4 %}{% break %}{% endif %}{% endfor %}",
            "135",
        ),
        (
            "{% for i in [1, [2, [3]]] recursive %}{% if i is number %}{{ i }}{% else %}"
            "{{ loop(i) }}{% endif %}{% endfor %}",
            "123",
        ),
        (
            "{% set t %}a{{ 1 }}{% endset %}{{ t | upper }} {% filter upper %}x{% endfilter %}",
            "A1 X",
        ),
        (
            "{% macro m(a) %}<{{ a }}{{ caller() }}>{% endmacro %}{% call m(1) %}!{% endcall %}",
            "<1!>",
        ),
        (
            "{{ (1, 2)[0] }} {{ 'abc'[::-1] }} {{ [1, 2, 3][1:] }} {{ 'b' in ['a', 'b'] }}",
            "1 cba [2, 3] True",
        ),
        ("{{ messages | length }} {{ (messages | map(attribute='role') | list)[1] }}", "4 user"),
        (
            "{{ messages | groupby('role') | map('first') | join(' ') }}",
            "assistant system user",
        ),
        ("{{ nothing }}|{{ nothing is defined }}|{{ none }}|{{ 1 if false }}", "|False|None|"),
    ],
)
def test_what_jinja_does_is_done(source: str, expected: str) -> None:
    assert render(source) == expected


GROW = "{% set n = namespace(x='ab') %}"
NEST = "{% set n = namespace(x=[1]) %}"
MANY = "{% for i in range(99999) %}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ 'a' * 10 ** 10 }}", "too much"),
        ("{{ 10 ** 10 * [1] }}", "too much"),
        ("{% set x = 9 ** 9999 %}", "too big a number"),
        (
            "{% set n = namespace(x=9) %}" + "{% set n.x = n.x * n.x %}" * 99,
            "too big a number",
        ),
        ("{{ 'a'.center(10 ** 10) }}", "center"),
        ("{{ 'a'.ljust(10 ** 10) }}", "ljust"),
        ("{{ '\t'.expandtabs(10 ** 10) }}", "expandtabs"),
        ("{{ 'a' | center(10 ** 10) }}", "No filter named 'center'"),
        ("{{ (1).to_bytes(10 ** 10) }}", "to_bytes"),
        ("{{ 'a'.encode() * 10 ** 10 }}", "too much"),
        ("{{ 'a'.encode().ljust(10 ** 10) }}", "unsafe"),
        ("{{ '%10000000000d' % 1 }}", "too great a width"),
        ("{{ '%10000000000d'.encode() % 1 }}", "too great a width"),
        ("{{ '%*d' % (10 ** 10, 1) }}", "too great a width"),
        ("{{ '%10000000000d' | format(1) }}", "too great a width"),
        ("{{ '{:>10000000000}'.format(1) }}", "too great a width"),
        ("{{ '{:>{}}'.format(1, 10 ** 10) }}", "too great a width"),
        ("{{ ('{:>999999}' * 9999).format(1) }}", "too"),
        ("{{ 'a' | indent(10 ** 10) }}", "indents over"),
        ("{{ [1] | tojson(indent=10 ** 10) }}", "indents over"),
        ("{{ [1] * 9 | tojson(separators=(',' * 999, ':')) }}", "separates by over"),
        ("{{ strftime_now('%c' * 9999) }}", "date"),
        ("{{ lipsum(10 ** 10) }}", "lipsum"),
        ("{{ [1] | batch(10 ** 10, 'x') }}", "No filter named 'batch'"),
        ("{{ [[1]] | sum(start=[]) }}", "no numbers"),
        ("{{ (range(99999) | join).replace('', range(9999) | join) }}", "too much"),
        ("{{ (range(99999) | join) | replace('1', range(9999) | join) }}", "too much"),
        ("{{ (range(99999) | join).join(range(9999) | map('string')) }}", "too much"),
        ("{{ range(99999) | join(range(999) | join) }}", "too much"),
        (GROW + "{% set n.x = n.x ~ n.x %}" * 60, "too much"),
        (GROW + "{% set n.x = n.x + n.x %}" * 60, "too much"),
        (GROW + "{% set n.x = '{0}{0}'.format(n.x) %}" * 60, "too much"),
        (GROW + "{% set n.x = '%s' % (n.x * 2) %}" * 60, "too much"),
        (NEST + "{% set n.x = n.x + n.x %}" * 60, "too much"),
        (NEST + "{% set n.x = [n.x, n.x] %}" * 60 + "{{ n.x }}", "too much"),
        (NEST + "{% set n.x = (n.x, n.x) %}" * 60, "too much"),
        (NEST + "{% set n.x = {'a': n.x, 'b': n.x} %}" * 60, "too much"),
        (NEST + "{% set n.x = dict(a=n.x, b=n.x) %}" * 60, "too much"),
        (NEST + "{% set n.x = [n.x] %}" * 5 + MANY + "{% set n.x = [n.x] %}{% endfor %}", ""),
        (
            "{% set x %}" + MANY * 2 + "{{ i }}{% endfor %}{% endfor %}{% endset %}",
            "too much",
        ),
        (MANY * 2 + "{% endfor %}{% endfor %}", "too much"),
        (MANY + "{% for j in range(99999) if false %}{% endfor %}{% endfor %}", "too much"),
        (MANY + "{% set x = range(99999) | map('string') | list %}{% endfor %}", "too much"),
        (MANY + "{% set x = range(99999) | map('abs') | sum %}{% endfor %}", "too much"),
        (
            "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
            "{{ m(50) }}",
            "too much",
        ),
        (
            "{% macro m() %}" + "x" * 5000 + "{% endmacro %}" + MANY + "{{ m() }}{% endfor %}",
            "too much",
        ),
        ("{% block b %}{% if messages %}{{ self.b() }}{% endif %}{% endblock %}", "recursion"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{% for i in [[]] recursive %}{{ loop([[]]) }}{% endfor %}", "recursion"),
        ("{% include 'x' %}", "no loader"),
        ("{% import 'x' as x %}", "no loader"),
        ("{% extends 'x' %}", "no loader"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ (messages | attr('__class__')).__mro__ }}", ""),
        ("{{ '{0.__class__.__mro__}'.format(1).x.y }}", ""),
        ("{{ raise_exception.__globals__.x }}", "unsafe"),
        ("{{ strftime_now.__globals__.x }}", "unsafe"),
        ("{{ namespace.__init__.__globals__ }}", "unsafe"),
        ("{{ messages.append(1) }}", ""),
        ("{{ messages[0].update(a=1) }}", ""),
        ("{{ self._TemplateReference__context.x }}", "unsafe"),
    ],
)
def test_a_hostile_template_is_stopped_early(source: str, message: str) -> None:
    started, memory = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadTemplate) as caught:
        render(source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert time.thread_time() - started < 8
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    assert grown < 300, f"{grown:.0f} MB"


def test_work_that_no_count_shows_is_stopped_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_allowance, "_SECONDS", 0.2)
    text = "a" * 3_000_000
    source = "{% for i in range(99999) %}{% if a == b %}{% endif %}{% endfor %}"
    with pytest.raises(BadTemplate, match="takes over"):
        ChatTemplate(source).render({"a": text, "b": text[:-1] + "b"})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "Expected an expression, got 'end of statement block' (line 1)"),
        ("a\n{% for %}", "(line 2)"),
        ("{{ 1 | nonsense }}", "No filter named 'nonsense'"),
        ("{{ 1 is nonsense }}", "No test named 'nonsense'"),
        ("{% generation %}x", "generation"),
        ("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "recursion"),
        ("x" * 300_000, "longer than"),
    ],
)
def test_what_does_not_compile(source: str, message: str) -> None:
    with pytest.raises(BadTemplate) as caught:
        ChatTemplate(source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_long_chats_are_no_attack() -> None:
    words = "word & <word> " * 40
    turns = [{"role": "user", "content": words}, {"role": "assistant", "content": words}]
    assert len(render(QWEN, [*turns * 1500, CHAT[3]])) > 3000 * len(words)


def test_a_rendering_leaves_nothing_behind() -> None:
    template = ChatTemplate("{% set n = namespace(x=messages|length) %}{{ n.x }}{{ seen }}")
    assert [template.render({"messages": [1] * n}) for n in (1, 2, 3)] == ["1", "2", "3"]
