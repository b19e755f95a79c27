"""Guesses of how a text goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_runtime.drafting import Draft, Lookup

TEXT = [*range(10, 30)]


def after(prompt: list[int], *came: int) -> Lookup:
    lookup = Lookup(prompt)
    for token in came:
        lookup.push(token)
    return lookup


def test_what_followed_the_same_three_tokens_is_the_guess() -> None:
    assert after([*TEXT, 1, 2, 12, 13, 14]).draft(4).tokens == [15, 16, 17, 18]
    assert after([*TEXT, 1, 2, 12], 13, 14).draft(2).tokens == [15, 16]


@pytest.mark.parametrize("prompt", [[1], [1, 1], TEXT, [*TEXT, 12, 13], [*TEXT, 11, 13, 14]])
def test_where_nothing_is_known_there_is_no_guess(prompt: list[int]) -> None:
    assert after(prompt).draft(4) is None


def test_the_latest_of_several_places_is_taken() -> None:
    assert after([1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 1, 2, 3]).draft(1).tokens == [5]


def test_it_goes_on_where_it_was_right_and_leaves_where_it_was_wrong() -> None:
    lookup = after([*TEXT, 1, 12, 13, 14], 15, 16)
    assert lookup.draft(2).tokens == [17, 18]
    lookup.push(99)
    assert lookup.draft(2) is None


def test_what_repeats_is_guessed_to_repeat_on() -> None:
    assert after([5, 7, 8, 9, 7, 8, 9]).draft(7).tokens == [7, 8, 9, 7, 8, 9, 7]


def test_what_is_expected_is_guessed_from_its_beginning_on() -> None:
    lookup = Lookup([1, 2], TEXT)
    assert lookup.draft(3) is not None
    for token in TEXT[:5]:
        assert lookup.draft(2).tokens[0] == token
        lookup.push(token)
    # Something else comes in between, and then it goes on.
    for token in (98, 99, 14, 15, 16):
        lookup.push(token)
    assert lookup.draft(2).tokens == [17, 18]


def test_chances_follow_what_came_true() -> None:
    """None is larger than the one before; being right raises them, being wrong lowers them."""
    fresh = after([*TEXT, 1, 12, 13, 14]).draft(3).chances
    proven = after([*TEXT, 1, 12, 13, 14], *range(15, 29)).draft(3).chances
    assert fresh[0] < proven[0] < 1.0
    assert list(fresh) == sorted(fresh, reverse=True)
    wrong = [token for place in range(12, 24) for token in (place, place + 1, place + 2, 1)]
    assert after(TEXT, *wrong, 12, 13, 14).draft(1).chances[0] < fresh[0] / 2


@given(
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    came=st.lists(st.integers(0, 3), max_size=60),
    most=st.integers(1, 20),
)
def test_a_guess_is_what_stood_after_the_same_three_tokens(
    prompt: list[int], came: list[int], most: int
) -> None:
    text = [*prompt, *came]
    draft = after(prompt, *came).draft(most)
    if draft is None:
        assert all(text[at - 3 : at] != text[-3:] for at in range(3, len(text)))
        return
    tokens, chances = draft
    assert len(tokens) == len(chances) == most
    assert all(0.0 < chance < 1.0 for chance in chances)
    ahead = [*text, *tokens]
    assert any(
        text[at - 3 : at] == text[-3:] and ahead[at : at + most] == tokens
        for at in range(3, len(text))
    )


def test_prompts_cut_differently_give_the_same_guesses() -> None:
    text = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 7, 2, 3, 4]
    drafts: list[Draft] = [after(text[:cut], *text[cut:]).draft(5) for cut in range(12, 15)]
    assert [draft.tokens for draft in drafts] == [drafts[0].tokens] * len(drafts)
