"""One request's way: waiting, prefill, decode, finished."""

from __future__ import annotations

from collections.abc import Sequence as Ids

import pytest
from support.two_tokenizers import byte_level

from rbee_runtime.events import StopReason
from rbee_runtime.request import GREEDY, Request
from rbee_runtime.sequence import Phase, Sequence

EOS = frozenset({0, 2})


def decoding(max_tokens: int = 50, stop: tuple[str, ...] = ()) -> Sequence:
    one = Sequence(
        Request("a", [7, 8], max_tokens, GREEDY, stop), [7, 8], 2 + max_tokens, byte_level(), EOS
    )
    one.begin(0)
    assert one.advance(2)
    return one


def ids(text: str) -> list[int]:
    return byte_level().encode(text)


def feed(one: Sequence, tokens: Ids[int]) -> str:
    text = ""
    for token in tokens:
        assert one.phase is Phase.DECODE
        text += one.accept(token)
    return text


def test_the_phases() -> None:
    one = Sequence(Request("a", [7, 8, 9], 2, GREEDY), [7, 8, 9], 5, byte_level(), EOS)
    assert one.phase is Phase.WAITING
    one.begin(3)
    assert (one.phase, one.slot) == (Phase.PREFILL, 3)
    assert one.pending(2) == [7, 8]
    assert not one.advance(2)
    assert one.pending(2) == [9]
    assert one.advance(1)
    assert one.phase is Phase.DECODE
    one.accept(100)
    assert one.pending(2) == [100]
    assert one.advance(1)
    one.accept(101)
    assert one.phase is Phase.FINISHED
    assert one.stop_reason is StopReason.MAX_TOKENS
    assert one.tokens == [100, 101]


@pytest.mark.parametrize("end", sorted(EOS))
def test_every_end_of_text_id_ends_it_and_is_not_counted(end: int) -> None:
    one = decoding()
    said = ids("hello")
    assert feed(one, [*said, end]) == "hello"
    assert one.stop_reason is StopReason.EOS
    assert one.tokens == said
    assert one.stop_sequence is None


def test_end_of_text_at_once() -> None:
    one = decoding()
    assert feed(one, [2]) == ""
    assert (one.tokens, one.stop_reason) == ([], StopReason.EOS)


def test_a_stop_string_over_several_tokens() -> None:
    one = decoding(stop=("END", "never"))
    said = ids("well xENDy")
    text = ""
    for token in said:
        text += one.accept(token)
        if one.phase is Phase.FINISHED:
            break
    assert text == "well x"
    assert one.stop_reason is StopReason.STOP_SEQUENCE
    assert one.stop_sequence == "END"


def test_a_stop_string_with_the_last_token_allowed() -> None:
    said = ids("a END")
    one = decoding(max_tokens=len(said), stop=("END",))
    assert feed(one, said) == "a "
    assert one.stop_reason is StopReason.STOP_SEQUENCE


@pytest.mark.parametrize("how", ["max_tokens", "eos", "cancel"])
def test_what_was_withheld_comes_at_the_end(how: str) -> None:
    said = ids("a EN")
    one = decoding(max_tokens=len(said) if how == "max_tokens" else 50, stop=("END",))
    text = feed(one, said)
    if how == "eos":
        text += one.accept(0)
    elif how == "cancel":
        assert text == "a "
        text += one.finish(StopReason.CANCELLED)
    assert text == "a EN"
    assert one.stop_sequence is None
    reasons = {"max_tokens": "MAX_TOKENS", "eos": "EOS", "cancel": "CANCELLED"}
    assert one.stop_reason == reasons[how]


def test_half_a_character_at_the_end_may_complete_nothing() -> None:
    snowman = ids("☃")
    one = decoding(max_tokens=len(snowman) - 1)
    assert feed(one, snowman[:-1]) == "\ufffd"


def test_the_end_of_half_a_character_can_be_a_stop_string() -> None:
    one = decoding(stop=("\ufffd",))
    assert feed(one, ids("a☃")[:-1]) == "a"
    assert one.accept(0) == ""
    assert one.stop_reason is StopReason.STOP_SEQUENCE


def test_cancelled_while_waiting() -> None:
    one = Sequence(Request("a", [7], 5, GREEDY), [7], 6, byte_level(), EOS)
    assert one.finish(StopReason.CANCELLED) == ""
    assert (one.phase, one.stop_reason) == (Phase.FINISHED, StopReason.CANCELLED)
