"""One constraint that several completions are held to at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.two_tokenizers import byte_level

from rbee_runtime.constraint import Constraint, Regex
from rbee_runtime.constraint.grammar import Grammar, Grammars
from rbee_runtime.errors import InferenceFailed

HELD_TO = Regex("(ab|ac)+")
[A] = byte_level().encode("a")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Constraint]:
    """Return all that is compiled from now on."""
    found: list[Constraint] = []
    compile_anew: Callable[[Grammars, Constraint], Grammar] = Grammars._compile

    def compile_one(grammars: Grammars, constraint: Constraint) -> Grammar:
        found.append(constraint)
        return compile_anew(grammars, constraint)

    monkeypatch.setattr(Grammars, "_compile", compile_one)
    return found


@pytest.fixture
def grammars() -> Grammars:
    return Grammars(byte_level(), 384, [1])


def test_each_begins_at_the_beginning(grammars: Grammars, compiled: list[Constraint]) -> None:
    first = grammars.compile(HELD_TO)
    first.advance(A)
    second, third = grammars.compile(HELD_TO), grammars.compile(HELD_TO)
    assert compiled == [HELD_TO]
    assert [one.allowed[A] for one in (first, second, third)] == [False, True, True]
    second.advance(A)
    assert not second.allowed[A]
    assert third.allowed[A]


def test_nothing_is_kept(grammars: Grammars, compiled: list[Constraint]) -> None:
    """Once the first is gone; and what is equal and another object is not taken for it."""
    first = grammars.compile(HELD_TO)
    second = grammars.compile(HELD_TO)
    del first
    assert grammars.compile(HELD_TO).allowed[A]
    assert compiled == [HELD_TO] * 2
    third = grammars.compile(HELD_TO)
    fourth = grammars.compile(Regex(HELD_TO.pattern))
    assert compiled == [HELD_TO] * 4
    assert all(one.allowed[A] for one in (second, third, fourth))


def test_where_the_limits_are_reached(
    grammars: Grammars, compiled: list[Constraint], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_limits(_: Grammar) -> Grammar:
        raise InferenceFailed("too many states")

    first = grammars.compile(HELD_TO)
    monkeypatch.setattr(Grammar, "again", out_of_limits)
    assert grammars.compile(HELD_TO).allowed[A]
    assert compiled == [HELD_TO] * 2
    assert first.allowed[A]
