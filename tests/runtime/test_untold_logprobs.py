"""Tokens and the text they are told with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.two_tokenizers import byte_fallback, byte_level

from rbee_runtime.events import StopReason
from rbee_runtime.logprobs import TokenLogprob, TokenLogprobs
from rbee_runtime.request import Request, SamplingParams
from rbee_runtime.sequence import Phase, Sequence
from rbee_runtime.tokenizer import Tokenizer

KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
}
END = 300
TEXTS = st.lists(st.sampled_from(["hello", " world", "好", "🙂", "é", "\n", "END", "EN", "\ufffd"]))
Told = tuple[str, tuple[TokenLogprobs, ...]]


def told(
    tokenizer: Tokenizer, tokens: list[int], stop: tuple[str, ...] = (), limit: int = 1000
) -> Iterator[Told]:
    """Yield the text and the tokens that each of some drawn tokens makes certain."""
    sampling = SamplingParams(logprobs=1)
    request = Request("a", [7], limit, sampling, stop)
    one = Sequence(request, [7], 1 + limit, tokenizer, frozenset({END}))
    one.begin(0)
    one.advance(1)
    for number, token in enumerate(tokens):
        one.sampler.logprobs = TokenLogprobs(token, -float(number), (TokenLogprob(1, -0.5),))
        text = one.accept(token)
        yield text, one.take_logprobs(text)
        if one.phase is Phase.FINISHED:
            return
    text = one.finish(StopReason.CANCELLED)
    yield text, one.take_logprobs(text)


def listed(pieces: list[Told]) -> list[TokenLogprobs]:
    return [known for _, tokens in pieces for known in tokens]


@pytest.mark.parametrize("kind", KINDS)
@given(ids=st.lists(st.integers(0, 270), max_size=30), texts=TEXTS, ends=st.booleans())
@example(ids=[0, *(3 + byte for byte in "🙂".encode()), 0], texts=[], ends=True)
@settings(max_examples=150, deadline=None)
def test_every_token_is_told_once(kind: str, ids: list[int], texts: list[str], ends: bool) -> None:
    tokenizer = KINDS[kind]()
    drawn = [*ids, *tokenizer.encode("".join(texts))]
    pieces = list(told(tokenizer, [*drawn, *([END] if ends else [])]))
    known = listed(pieces)
    text = tokenizer.decode(drawn)
    assert "".join(piece for piece, _ in pieces) == text
    assert [one.token for one in known] == drawn
    assert [one.logprob for one in known] == [-float(number) for number in range(len(drawn))]
    offsets = [one.offset for one in known]
    assert offsets == sorted(offsets)
    assert all(0 <= offset <= len(text) for offset in offsets)
    # With the text that begins at its offset, if there is any more.
    so_far = 0
    for piece, tokens in pieces[:-1]:
        assert all(so_far <= one.offset < so_far + len(piece) for one in tokens)
        so_far += len(piece)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=TEXTS, stop=st.sampled_from(["END", "world", "lo w", "🙂", "\n", "or"]))
@settings(max_examples=150, deadline=None)
def test_what_a_stop_string_takes_away_is_not_told(kind: str, texts: list[str], stop: str) -> None:
    tokenizer = KINDS[kind]()
    drawn = tokenizer.encode("".join(texts))
    free = listed(list(told(tokenizer, drawn)))
    pieces = list(told(tokenizer, drawn, (stop,)))
    text = "".join(piece for piece, _ in pieces)
    assert text == tokenizer.decode(drawn).partition(stop)[0]
    cut = stop in tokenizer.decode(drawn)
    assert listed(pieces) == ([one for one in free if one.offset < len(text)] if cut else free)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=TEXTS)
@settings(max_examples=60, deadline=None)
def test_offsets_are_where_the_bytes_begin(kind: str, texts: list[str]) -> None:
    """Where nothing but whole characters was drawn, and each token is some of one or some."""
    tokenizer = KINDS[kind]()
    drawn = tokenizer.encode("".join(texts).replace("\ufffd", ""))
    drawn = [token for token in drawn if not tokenizer.is_special(token)]
    known = listed(list(told(tokenizer, drawn)))
    data = tokenizer.decode(drawn).encode()
    spelled = [tokenizer.spelled(token) or b"" for token in drawn]
    whole = b"".join(spelled)
    ahead = len(whole) - len(data)  # a space that a text does not begin with
    assert whole[ahead:] == data
    at = -ahead
    for one, some in zip(known, spelled, strict=True):
        assert len(data[: max(0, at)].decode(errors="ignore")) >= one.offset
        at += len(some)


def test_a_token_that_has_no_text_comes_with_the_next() -> None:
    hello = byte_level().encode("hello")
    (first, second, *_) = told(byte_level(), [0, hello[0]])
    assert first == ("", ())
    assert [one.token for one in second[1]] == [0, hello[0]]


def test_the_last_of_those_without_text_come_at_the_end() -> None:
    hello = byte_level().encode("hello")
    *_, last = told(byte_level(), [*hello, 0, 1], limit=len(hello) + 2)
    assert last[0] == ""
    assert [one.token for one in last[1]] == [0, 1]


def test_text_that_is_withheld_withholds_its_tokens() -> None:
    tokenizer = byte_level()
    drawn = tokenizer.encode("a ENd")
    pieces = list(told(tokenizer, drawn, ("END",)))
    so_far = 0
    for text, tokens in pieces:
        assert bool(text) == bool(tokens)
        so_far += len(text)
        assert all(one.offset < so_far for one in tokens)
    assert [one.token for one in listed(pieces)] == drawn


def test_nobody_asked() -> None:
    one = Sequence(Request("a", [7], 9), [7], 10, byte_level(), frozenset({END}))
    assert one.untold is None
    assert one.take_logprobs("text") == ()
