"""Stop strings in text that comes in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_runtime.stopping import StopMatcher

# Of few letters, so that stop strings begin inside each other and nearly match.
PIECES = st.lists(st.text(alphabet="abc", max_size=4), max_size=12)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=4)


def expected(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    """Return the text before the first stop string to be complete, and that string."""
    text = ""
    for piece in pieces:
        text += piece
        found = [(text.index(stop), -len(stop), stop) for stop in stops if stop in text]
        if found:
            at, _, stop = min(found)
            return text[:at], stop
    return text, None


@given(pieces=PIECES, stops=STOPS)
@settings(max_examples=500, deadline=None)
def test_the_text_ends_before_the_stop_string(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    got = "".join(matcher.push(piece) for piece in pieces) + matcher.flush()
    assert (got, matcher.matched) == expected(pieces, stops)


@given(pieces=PIECES, stops=STOPS)
@settings(max_examples=300, deadline=None)
def test_only_what_may_become_a_stop_string_is_held(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    pushed, got = "", ""
    for piece in pieces:
        pushed += piece
        got += matcher.push(piece)
        if matcher.matched is not None:
            break
        held = pushed.removeprefix(got)
        assert pushed == got + held
        ends = [pushed[i:] for i in range(len(pushed))]
        longest = max((e for e in ends for s in stops if s.startswith(e)), key=len, default="")
        assert held == longest


def test_nothing_comes_after_a_match() -> None:
    matcher = StopMatcher(["stop"])
    assert matcher.push("a st") == "a "
    assert matcher.push("op and more") == ""
    assert matcher.matched == "stop"
    assert matcher.push("more") == ""
    assert matcher.flush() == ""


@pytest.mark.parametrize(
    ("stops", "matched"),
    [(["b", "ab"], "ab"), (["ab", "abc"], "abc"), (["abc", "ab"], "abc"), (["c", "b"], "b")],
)
def test_the_first_to_begin_wins_and_then_the_longest(stops: list[str], matched: str) -> None:
    matcher = StopMatcher(stops)
    assert matcher.push("xabc") == "xabc"[: "xabc".index(matched)]
    assert matcher.matched == matched


def test_without_stop_strings_text_passes() -> None:
    matcher = StopMatcher([])
    assert matcher.push("anything") == "anything"
    assert matcher.flush() == ""
