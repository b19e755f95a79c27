"""Calls read out of an answer that comes in any pieces."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.tool_families import FAMILIES

from rbee_runtime.constraint import CallForm
from rbee_runtime.tools import Arguments, CallBegun, CallReader, Said, Text

FORMS = {name: family.form for name, family in FAMILIES.items()}
HERMES, LLAMA = FORMS["qwen2"], FORMS["llama"]

NAMES = st.sampled_from(["a", "ab", "get_weather", "x-1", "name"])
# What looks like syntax, inside strings as well.
VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab {}[]"\\,:<>\n', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("a}", max_size=2), inner),
    max_leaves=5,
)
CALL = st.tuples(
    NAMES,
    st.builds(
        lambda value, indent: json.dumps(value, indent=indent, ensure_ascii=False),
        st.dictionaries(st.text(alphabet='k"{', max_size=3), VALUES, max_size=3),
        st.sampled_from([None, 1]),
    ),
)
TEXT = st.text(alphabet="<tol_ca>[TOL]{ \n«", max_size=12)


@dataclass(frozen=True)
class Read:
    """What was read: all the text, and each call's name and arguments."""

    text: str
    calls: list[tuple[str, str]]


def gather(said: list[Said]) -> Read:
    text, calls = "", []
    for one in said:
        match one:
            case Text(piece):
                assert not calls, "text after a call"
                text += piece
            case CallBegun(name):
                calls.append((name, ""))
            case Arguments(piece):
                name, arguments = calls[-1]
                calls[-1] = (name, arguments + piece)
    return Read(text, calls)


def cut(text: str, places: list[int]) -> list[str]:
    at = sorted({place % (len(text) + 1) for place in places})
    return [text[i:j] for i, j in zip([0, *at], [*at, len(text)], strict=True)]


def read(form: CallForm, pieces: list[str], *, required: bool = False) -> Read:
    reader = CallReader(form, required=required)
    return gather([said for piece in pieces for said in reader.push(piece)] + reader.flush())


PLACES = st.lists(st.integers(0, 400), max_size=30)


@pytest.mark.parametrize("name", FORMS)
@given(text=TEXT, calls=st.lists(CALL, min_size=1, max_size=3), places=PLACES, ends=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_pieces_give_the_same_calls(
    name: str, text: str, calls: list[tuple[str, str]], places: list[int], ends: bool
) -> None:
    form = FORMS[name]
    calls = calls if form.between is not None else calls[:1]
    text = text.replace(form.marker, "") if form.marks_anywhere else ""
    assume(form.marker not in text)
    answer = text + form.write(calls) + ("\n" if ends else "")
    assert read(form, cut(answer, places)) == Read(text, calls)
    assert read(form, cut(form.write(calls), places), required=True) == Read("", calls)


@pytest.mark.parametrize("name", FORMS)
@given(text=st.text(max_size=60) | TEXT, places=PLACES)
@settings(max_examples=60, deadline=None)
def test_text_that_calls_nothing_is_text(name: str, text: str, places: list[int]) -> None:
    form = FORMS[name]
    begins = form.marker in text if form.marks_anywhere else text.startswith(form.marker)
    if not begins:
        assert read(form, cut(text, places)) == Read(text, [])


@given(text=TEXT, calls=st.lists(CALL, max_size=2), places=PLACES)
@settings(max_examples=300, deadline=None)
def test_no_more_is_held_back_than_may_begin_a_call(
    text: str, calls: list[tuple[str, str]], places: list[int]
) -> None:
    """Whatever has come, and whatever comes: half of a call is never told as text."""
    text = text.replace(HERMES.marker, "")
    assume(HERMES.marker not in text)
    answer = text + (HERMES.write(calls) if calls else "")
    reader, came, said = CallReader(HERMES), "", []
    for piece in cut(answer, places):
        came += piece
        said += reader.push(piece)
        before, marker, _ = came.partition(HERMES.marker)
        told = gather(said).text
        assert before.startswith(told)
        held = before[len(told) :]
        assert not held if marker else HERMES.marker.startswith(held)


@pytest.mark.parametrize("name", FORMS)
def test_an_answer_that_breaks_off(name: str) -> None:
    """What it tells is a beginning of what all of it would have told."""
    form = FORMS[name]
    calls = [("first", '{"a": "}{"}'), ("second", "{}")][: 2 if form.between is not None else 1]
    text = "Well. " if form.marks_anywhere else ""
    answer = text + form.write(calls)
    for length in range(len(answer)):
        reader = CallReader(form)
        got = gather(reader.push(answer[:length]) + reader.flush(cut_off=True))
        assert text.startswith(got.text)
        assert len(got.calls) == reader.calls
        for (name_got, arguments_got), (name_all, arguments) in zip(got.calls, calls, strict=False):
            assert name_got == name_all
            assert arguments.startswith(arguments_got)
        if got.calls and not reader.is_within_call:
            assert got.calls == calls[: len(got.calls)]


@pytest.mark.parametrize(
    ("form", "answer", "text"),
    [
        (HERMES, "See <tool_call> for more", "See <tool_call> for more"),
        (HERMES, "<tool_call><tool_call>", "<tool_call>"),
        (HERMES, '<tool_call>\n{"name": ""', '<tool_call>\n{"name": ""'),
        (LLAMA, '{"type": 3}', '{"type": 3}'),
        (LLAMA, ' {"name": "a", "parameters": {}}', ' {"name": "a", "parameters": {}}'),
    ],
)
def test_what_begins_like_a_call_and_is_none(form: CallForm, answer: str, text: str) -> None:
    for places in ([], list(range(99))):
        assert read(form, cut(answer, places)) == Read(text, [])


def test_white_space_in_the_syntax_makes_no_difference() -> None:
    answer = 'Hm<tool_call>{ "name":"a" ,"arguments":\n{"k": 1} } </tool_call><tool_call>{"name":'
    answer += '"b","arguments":{}}</tool_call>\n'
    assert read(HERMES, [answer]) == Read("Hm", [("a", '{"k": 1}'), ("b", "{}")])


def test_what_follows_the_calls_is_dropped() -> None:
    answer = HERMES.write([("a", "{}")]) + "\nThat was it. <tool_call>"
    assert read(HERMES, [*answer]) == Read("", [("a", "{}")])


def test_the_beginning_of_a_marker_is_text_where_the_answer_ends_with_it() -> None:
    for cut_off, told in ((False, [Text("<tool")]), (True, [])):
        reader = CallReader(HERMES)
        assert reader.push("a <tool") == [Text("a ")]
        assert reader.flush(cut_off=cut_off) == told


def test_text_is_told_at_once() -> None:
    reader = CallReader(HERMES)
    assert reader.push("a <") == [Text("a ")]
    assert reader.push("b <tool_cal") == [Text("<b ")]
    assert reader.push("l>") == []
    assert reader.push('\n{"name": "f", "argument') == []
    assert reader.push('s": {"k') == [CallBegun("f"), Arguments('{"k')]
    assert reader.push('": 1') == [Arguments('": 1')]
    assert (reader.calls, reader.is_within_call) == (1, True)
    assert reader.push("}}\n") == [Arguments("}")]
    assert not reader.is_within_call
