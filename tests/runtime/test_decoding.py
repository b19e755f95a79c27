"""Ids become text a piece at a time: whole characters, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.two_tokenizers import byte_fallback, byte_level

from rbee_runtime.incremental_decoder import IncrementalDecoder
from rbee_runtime.tokenizer import Tokenizer

KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
}
TEXT = st.one_of(
    st.text(max_size=30),
    st.text(alphabet=" helowrd好é🙂🚀\u200d\ufffd\n", max_size=30),
)
EMOJI_THEN_STRAY_BYTE = [3 + byte for byte in "🙂".encode()] + [3 + 0xFF]


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = IncrementalDecoder(tokenizer)
    return [*(decoder.push(token) for token in ids), decoder.flush()]


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXT)
@settings(max_examples=150, deadline=None)
def test_any_text_comes_out_whole(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(text)
    got = pieces(tokenizer, ids)
    assert "".join(got) == tokenizer.decode(ids)
    # No character comes in halves: what is no character can only have been in the text.
    assert sum(piece.count("\ufffd") for piece in got) == tokenizer.decode(ids).count("\ufffd")


@pytest.mark.parametrize("kind", KINDS)
@given(ids=st.lists(st.integers(0, 270), max_size=40))
@example(ids=EMOJI_THEN_STRAY_BYTE)
@example(ids=[260, *EMOJI_THEN_STRAY_BYTE, 260])
@example(ids=[1, 259, 1, 259, 260])
@settings(max_examples=300, deadline=None)
def test_any_ids_come_out_whole(kind: str, ids: list[int]) -> None:
    tokenizer = KINDS[kind]()
    got = pieces(tokenizer, ids)
    assert "".join(got) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXT, cut=st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_nothing_half_comes_before_the_end(kind: str, text: str, cut: int) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(text.replace("\ufffd", ""))[:cut]
    *before, _ = pieces(tokenizer, ids)
    assert "\ufffd" not in "".join(before)


def test_a_character_comes_with_its_last_byte() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("a☃b")
    assert len(ids) == 5  # a snowman of three bytes
    assert pieces(tokenizer, ids) == ["a", "", "", "☃", "b", ""]


def test_half_a_character_at_the_end_is_said_to_be_one() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("a☃")[:-1]
    assert pieces(tokenizer, ids) == ["a", "", "", "\ufffd"]


def test_special_tokens_have_no_text() -> None:
    tokenizer = byte_level()
    snowman = tokenizer.encode("☃")
    assert pieces(tokenizer, [0, *snowman[:1], 1, *snowman[1:], 2]) == [
        *[""] * 4,
        "☃",
        "",
        "",
    ]


def test_the_leading_space_of_a_first_word_goes_and_others_stay() -> None:
    tokenizer = byte_fallback()
    ids = tokenizer.encode("hello world")
    got = pieces(tokenizer, ids)
    assert "".join(got) == "hello world"
    assert not got[1].startswith(" ")


def test_text_is_not_held_back_without_need() -> None:
    """A piece a token where each token is a character or more."""
    for kind in KINDS.values():
        tokenizer = kind()
        words = tokenizer.encode("hello world")
        assert all(piece for piece in pieces(tokenizer, words)[-len(words) : -1][1:])
