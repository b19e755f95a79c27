"""Finding out how a model is told of functions and writes calls: its chat template is shown some.

A template that knows functions writes what an assistant called as the model was taught to write it.
So what stands around the name and the arguments of a call in its text is the form of calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rbee_runtime.constraint import CallForm
from rbee_runtime.errors import InvalidRequest
from rbee_runtime.tools.head import may_be_in_name
from rbee_runtime.tools.in_words import MannerInWords
from rbee_runtime.tools.manner import CallManner
from rbee_runtime.tools.native import MessageShape, NativeManner

if TYPE_CHECKING:
    from rbee_runtime.tokenizer import Tokenizer

# Texts that no template has, and ids as the pickiest of them want those.
_ASKED: Final = "Zq what is asked"
_SAID: Final = "Zq what is said"
_RESULT: Final = "Zq what came of it"
_NAMES: Final = ("zq_one", "zq_two")
_IDS: Final = ("ZqIdOne01", "ZqIdTwo02")
_ARGUMENTS: Final = {"zq_member": "zq_value"}
_USER: Final = {"role": "user", "content": _ASKED}
_TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": name,
            "parameters": {"type": "object", "properties": {"zq_member": {"type": "string"}}},
        },
    }
    for name in _NAMES
]
_ID_MEMBER: Final = re.compile(rf',\s*"\w+"\s*:\s*"(?:{"|".join(_IDS)})"')


class _Unknown(Exception):
    """The template knows nothing of functions, or writes calls in a form that is not served."""


def find_manner(tokenizer: Tokenizer) -> CallManner:
    """Return how a model is talked to about functions.

    Raises:
        InvalidRequest: It has no chat template, or one that fails.
    """
    tokenizer.render_chat([_USER])
    reasoning = tokenizer.reasoning_form
    if reasoning is not None and reasoning.direct:
        # Calls are messages in a channel of their own, which nothing here reads.
        return MannerInWords(tokenizer, _takes_system(tokenizer))
    for no_content in ("", None):
        # Only a template that fails with an object wants text: others may put something round it.
        for as_text in (False, True):
            shape = MessageShape(no_content, as_text)
            try:
                return NativeManner(tokenizer, _form(tokenizer, shape), shape)
            except InvalidRequest:
                continue
            except _Unknown:
                break
    return MannerInWords(tokenizer, _takes_system(tokenizer))


def _takes_system(tokenizer: Tokenizer) -> bool:
    try:
        return _SAID in tokenizer.render_chat([{"role": "system", "content": _SAID}, _USER])
    except InvalidRequest:
        return False


def _form(tokenizer: Tokenizer, shape: MessageShape) -> CallForm:
    """Return how a template writes calls.

    Raises:
        _Unknown: It does not.
        InvalidRequest: It fails with this shape.
    """
    if _NAMES[0] not in tokenizer.render_chat([_USER], _TOOLS):
        raise _Unknown
    one = _after_the_question(tokenizer, [shape.of(_calling(1))])
    try:
        two = _after_the_question(tokenizer, [shape.of(_calling(2))])
    except InvalidRequest:
        two = ""  # there is only one at a time
    said = _after_the_question(tokenizer, [{"role": "assistant", "content": _SAID}])
    result = {"role": "tool", "tool_call_id": _IDS[0], "name": _NAMES[0], "content": _RESULT}
    calling = shape.of(_calling(1))
    if _NAMES[0] not in one or _RESULT not in _after_the_question(tokenizer, [calling, result]):
        raise _Unknown
    start, found, end = said.partition(_SAID)
    if not found:
        raise _Unknown
    opening_at = _common_start(tokenizer, start, one)
    opening, middle, after = _cut(one[opening_at:], _NAMES[0])
    closing = after.removesuffix(end) if after.endswith(end) else _plain(tokenizer, after)
    opening, closing = opening.lstrip(), _without_id(closing.rstrip())
    if not opening or not middle.strip() or may_be_in_name(middle.strip()[0]):
        raise _Unknown
    if any(known in opening + middle + closing for known in (*_IDS, *_NAMES)):
        raise _Unknown
    between = None
    if all(name in two for name in _NAMES):
        _, middle_of_two, rest = _cut(two[opening_at:], _NAMES[0])
        before, middle_of_second, _ = _cut(rest, _NAMES[1])
        if middle_of_two == middle_of_second == middle:
            between = _without_id(before)
    marker = _marker(tokenizer, opening)
    return CallForm(opening, middle, between, closing, marker, marker not in ("{", "["))


def _calling(count: int) -> dict[str, Any]:
    calls = [
        {"id": number, "type": "function", "function": {"name": name, "arguments": _ARGUMENTS}}
        for number, name in zip(_IDS[:count], _NAMES, strict=False)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _after_the_question(tokenizer: Tokenizer, messages: Sequence[dict[str, Any]]) -> str:
    text = tokenizer.render_chat([_USER, *messages], _TOOLS, add_generation_prompt=False)
    _, asked, answer = text.rpartition(_ASKED)
    if not asked:
        raise _Unknown
    return answer


def _common_start(tokenizer: Tokenizer, said: str, called: str) -> int:
    """Return where an answer with a call begins to differ from one with text, in whole tokens."""
    pairs = enumerate(zip(said, called, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(said), len(called)))
    for name in tokenizer.added:
        first = called.find(name, max(0, at - len(name) + 1))
        if 0 <= first < at:
            return first
    return at


def _cut(text: str, name: str) -> tuple[str, str, str]:
    """Return what stands before the name of a call, between it and the arguments, and after them.

    Raises:
        _Unknown: No name or no arguments are there.
    """
    before, named, rest = text.partition(name)
    member = rest.find('"zq_member"')
    start = rest.rfind("{", 0, max(member, 0))
    if not named or member < 0 or start < 0:
        raise _Unknown
    try:
        arguments, end = json.JSONDecoder().raw_decode(rest, start)
    except ValueError:
        raise _Unknown from None
    if arguments != _ARGUMENTS:
        raise _Unknown
    return before, rest[:start], rest[end:]


def _without_id(text: str) -> str:
    """Return a text without a member of a call that is its id: a model need not make that up."""
    return _ID_MEMBER.sub("", text)


def _plain(tokenizer: Tokenizer, text: str) -> str:
    """Return what stands before the first special token."""
    places = [text.find(name) for name in tokenizer.specials]
    return text[: min((at for at in places if at >= 0), default=len(text))]


def _marker(tokenizer: Tokenizer, opening: str) -> str:
    """Return what tells a call from text: a token made for it, or else what precedes all JSON."""
    for name in sorted(tokenizer.added, key=len, reverse=True):
        if opening.startswith(name):
            return name
    before_json = re.split(r"[{\[]", opening, maxsplit=1)[0].rstrip()
    return before_json or opening[0]
