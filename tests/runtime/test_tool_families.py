"""What is found out from a chat template of how its model is told of functions and calls them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.tiny_tokenizer import CHAT_TEMPLATE
from support.tool_families import FAMILIES, Family, open_family

from rbee_runtime.constraint import CallForm
from rbee_runtime.errors import InvalidRequest
from rbee_runtime.tokenizer import Tokenizer

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASKED: dict[str, Any] = {"role": "user", "content": "Rain in Köln?"}
CALLED: dict[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "aB3dE6gH9",
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Köln"}},
        }
    ],
}
RESULT: dict[str, Any] = {
    "role": "tool",
    "tool_call_id": "aB3dE6gH9",
    "name": "weather",
    "content": "It pours",
}
PLAIN = FAMILIES["qwen2"]


def with_template(template: str, **changed: Any) -> Tokenizer:
    return open_family(replace(PLAIN, template=template, **changed))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_form_of_a_family(name: str) -> None:
    family = FAMILIES[name]
    tokenizer = open_family(family)
    assert tokenizer.call_manner.form == family.form
    assert tokenizer.call_manner is tokenizer.call_manner


@pytest.mark.parametrize("name", FAMILIES)
def test_a_chat_with_calls_is_written_in_it(name: str) -> None:
    family = FAMILIES[name]
    manner = open_family(family).call_manner
    prompt = manner.render([ASKED, CALLED, RESULT], [WEATHER])
    call = family.form.write([("weather", '{"city": "Köln"}')])
    places = [
        prompt.index(part)
        for part in ("Rain in Köln?", call.removesuffix(family.form.closing), "It pours")
    ]
    assert places == sorted(places)
    assert "Tells the weather" in prompt
    assert "Tells the weather" not in manner.render([ASKED, CALLED, RESULT], [])


@pytest.mark.parametrize(
    "template",
    [
        CHAT_TEMPLATE,
        # Knows functions, and not what comes of them.
        PLAIN.template.replace('"tool"', '"result"'),
        # Knows functions, and not their calls.
        PLAIN.template.replace("message.tool_calls", "message.others"),
        # Writes arguments as no JSON.
        PLAIN.template.replace("tool_call.arguments | tojson", "tool_call.arguments | length"),
        # Writes them as no JSON, and puts something round what is text already.
        PLAIN.template.replace(
            "tool_call.arguments | tojson",
            "('{' + tool_call.arguments + '}' if tool_call.arguments is string else 'city=Köln')",
        ),
        # Writes calls with what nobody can know before.
        PLAIN.template.replace("tool_call.name + ", "tool_call.name + message.tool_calls[0].id + "),
        # Writes them with nothing to tell them by.
        PLAIN.template.replace(
            '\'\\n<tool_call>\\n{"name": "\' + tool_call.name', "tool_call.name"
        ),
    ],
)
def test_a_template_that_cannot_be_gone_by(template: str) -> None:
    """The model is told in plain messages then, and asked for calls in the commonest form."""
    manner = with_template(template).call_manner
    assert manner.form == replace(PLAIN.form, between=None)
    prompt = manner.render([ASKED, CALLED, RESULT], [WEATHER])
    system, told, rest = prompt.partition("Rain in Köln?")
    assert told
    assert system.startswith("<|im_start|>system\nYou may call functions")
    assert '"description": "Tells the weather"' in system
    expected = """<|im_end|>
<|im_start|>assistant
<tool_call>
{"name": "weather", "arguments": {"city": "Köln"}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
It pours
</tool_response><|im_end|>
<|im_start|>assistant
"""
    assert rest == expected


def test_in_words_beside_a_system_message_and_text() -> None:
    manner = with_template(CHAT_TEMPLATE).call_manner
    said = [
        {"role": "system", "content": "Be brief."},
        ASKED,
        CALLED | {"content": "Let me see."},
        RESULT,
        RESULT,
        ASKED,
    ]
    prompt = manner.render(said, [WEATHER])
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\nYou may call functions")
    assert "<|im_start|>assistant\nLet me see.\n<tool_call>" in prompt
    assert prompt.count("<|im_start|>user\n") == 2
    assert prompt.count("It pours") == 2
    without = manner.render(said, [])
    assert without.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert "You may call" not in without


@pytest.mark.parametrize(
    "system", ["{{ raise_exception('no system') if message.role == 'system' }}", None]
)
def test_in_words_where_there_is_no_system_message(system: str | None) -> None:
    role = "{% for message in messages %}"
    rule = "{% if message.role == 'user' %}" if system is None else system
    template = role + rule + "{{ message.role }}: {{ message.content }}\n"
    template += ("{% endif %}" if system is None else "") + "{% endfor %}"
    prompt = with_template(template).call_manner.render([ASKED], [WEATHER])
    assert prompt.startswith("user: You may call functions")
    assert prompt.endswith("</tool_response>.\n\nRain in Köln?\n")


def test_the_beginning_of_a_call_is_found_in_whole_tokens() -> None:
    """Where text and a call begin with tokens that begin alike."""
    template = (
        "{{ tools | tojson if tools }}{% for message in messages %}"
        "{{ '<|text|>' if message.role == 'user' }}"
        "{% if message.tool_calls %}{% for call in message.tool_calls %}"
        "<|tool|>{{ call.function.name }}:{{ call.function.arguments | tojson }}{% endfor %}"
        "{% else %}<|text|>{{ message.content }}{% endif %}{{ eos_token }}{% endfor %}"
    )
    manner = with_template(template, specials=("<|text|>", "<|tool|>")).call_manner
    assert manner.form == CallForm("<|tool|>", ":", "<|tool|>", "", "<|tool|>")


def test_without_a_template_nothing_is_called() -> None:
    tokenizer = open_family(PLAIN)
    tokenizer.chat_template = None
    with pytest.raises(InvalidRequest, match="this model has no chat template"):
        tokenizer.call_manner  # noqa: B018
    with pytest.raises(InvalidRequest, match="the chat template failed"):
        with_template("{{ raise_exception('no') }}").call_manner  # noqa: B018


def test_a_marker_without_a_token_of_its_own() -> None:
    """All that precedes the JSON is one; see also the family whose calls have none."""
    template = PLAIN.template.replace("<tool_call>", "CALL:").replace("</tool_call>", "DONE")
    form = with_template(template, plain=()).call_manner.form
    assert (form.marker, form.marks_anywhere) == ("CALL:", True)
    assert form.opening == 'CALL:\n{"name": "'
    assert isinstance(open_family(Family(template, form)).call_manner.form, CallForm)
