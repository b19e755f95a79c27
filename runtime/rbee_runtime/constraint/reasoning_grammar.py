"""The grammar of reasoning that comes before something else, in llguidance's form of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from rbee_runtime.reasoning import Reasoning, Stage

_SPACE: Final = r"[ \t\r\n]"
_MOST_SPACE: Final = 8
"""Characters of it around a marker. Without a bound a model may go on with it for ever."""


def reasoning_rules(reasoning: Reasoning, specials: Mapping[str, int]) -> Iterator[str]:
    """Yield rules of which ``reasoning`` is all of it, up to what follows, and ``thoughts`` a
    beginning.

    Besides the markers there is only text in it: no special token may come.

    Args:
        reasoning: How it is marked, and where the completion begins.
        specials: The vocabulary's special tokens by name.
    """
    begin = "gap? think " if reasoning.stage is Stage.AHEAD else ""
    end = "spelled_end"
    if not specials.keys().isdisjoint(parts(reasoning.closing, specials)):
        end = f"(spelled_end | THOUGHT? {literal(reasoning.closing, specials)})"
    yield f"reasoning: {begin}{end} gap?"
    yield f"thoughts: {begin}THOUGHT?"
    yield f"think: {literal(reasoning.opening, specials)}"
    yield f"spelled_end[lazy]: ANY_THOUGHT {json.dumps(reasoning.closing)}"
    yield r"ANY_THOUGHT: /(.|\n)*/"
    yield r"THOUGHT: /(.|\n)+/"
    yield f"gap: /{_SPACE}{{1,{_MOST_SPACE}}}/"


def no_reasoning(reasoning: Reasoning) -> str:
    """Return what is added to a lexeme of text for that not to begin as reasoning does."""
    marker = re.escape(reasoning.opening).replace("/", r"\/")
    return rf" & ~/{_SPACE}{{0,{_MOST_SPACE}}}{marker}(.|\n)*/"


def may_be_none(reasoning: Reasoning) -> bool:
    """Return whether the completion may do without."""
    return reasoning.stage is Stage.AHEAD


def direct(reasoning: Reasoning, specials: Mapping[str, int]) -> str:
    """Return what may come before an answer without reasoning, as an expression, or nothing."""
    return f"({literal(reasoning.direct, specials)})? " if reasoning.direct else ""


def marking(reasoning: Reasoning, specials: Mapping[str, int]) -> set[int]:
    """Return the special tokens that it is marked with."""
    text = reasoning.opening + reasoning.closing + reasoning.direct
    return {specials[part] for part in parts(text, specials) if part in specials}


def literal(text: str, specials: Mapping[str, int]) -> str:
    """Return a text as an expression, the special tokens in it as such."""
    parts_of_it = (
        f"<[{specials[part]}]>" if part in specials else json.dumps(part)
        for part in parts(text, specials)
    )
    return " ".join(parts_of_it) or '""'


def parts(text: str, specials: Mapping[str, int]) -> list[str]:
    """Return a text cut into special tokens and what is between."""
    if not specials:
        return [text] if text else []
    names = "|".join(map(re.escape, sorted(specials, key=len, reverse=True)))
    return [part for part in re.split(f"({names})", text) if part]
