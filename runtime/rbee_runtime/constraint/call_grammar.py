"""The grammar of an answer that may call functions, in llguidance's form of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from rbee_runtime.constraint import ToolCalls

_MOST_CALLS: Final = 32
"""Of an answer: a model that does not know when it is done would go on to its context's end."""


def call_grammar(constraint: ToolCalls, specials: Mapping[str, int], eos: Collection[int]) -> str:
    """Return the grammar, in which ``@f0`` is a grammar of the arguments of the first function.

    A marker counts as one whether it is a special token or spelled in letters: in the text that is
    told of a completion there is no difference.

    Args:
        constraint: What an answer is held to.
        specials: The vocabulary's special tokens by name.
        eos: Tokens that end a completion.
    """
    form = constraint.form
    calls = "call"
    if constraint.parallel and form.between is not None:
        calls = f"call (between call){{0,{_MOST_CALLS - 1}}}"
    rules = ["%llguidance {}"]
    if constraint.required:
        rules.append(f"start: opening {calls} closing")
    else:
        rules += _after_text(constraint, specials, eos)
        rules.append(f"calls: opening {calls} closing")
    opening = form.opening if constraint.required else form.opening.removeprefix(form.marker)
    if form.between is not None:
        rules.append(f"between: {_literal(form.between, specials)}")
    names = (
        f"{json.dumps(one.name)} middle @f{number}"
        for number, one in enumerate(constraint.functions)
    )
    rules += [
        f"opening: {_literal(opening, specials)}",
        f"call: {' | '.join(names)}",
        f"middle: {_literal(form.middle, specials)}",
        f"closing: {_literal(form.closing, specials)}",
    ]
    return "\n".join(rules) + "\n"


def shown(constraint: ToolCalls, specials: Mapping[str, int]) -> frozenset[int]:
    """Return the special tokens that calls are written with."""
    form = constraint.form
    text = form.opening + form.middle + form.closing + (form.between or "")
    return frozenset(specials[part] for part in _parts(text, specials) if part in specials)


def _after_text(
    constraint: ToolCalls, specials: Mapping[str, int], eos: Collection[int]
) -> Iterator[str]:
    """Yield the rules of text that calls may follow, or end.

    In text a model may write whatever token it likes, as without any constraint.
    """
    marker = constraint.form.marker
    others = set(specials.values()) - shown(constraint, specials) - set(eos)
    other = f"<[{','.join(map(str, sorted(others)))}]>" if others else None
    yield r"TEXT: /(.|\n)+/"
    more = "" if other is None else " (other TEXT?)*"
    if other is not None:
        yield f"other: {other}"
    if constraint.form.marks_anywhere:
        before = "" if other is None else "(TEXT? other)* "
        yield f"start: TEXT?{more} | {before}marked calls"
        yield r"ANY: /(.|\n)*/"
        yield f"spelled[lazy]: ANY {json.dumps(marker)}"
        token = specials.get(marker)
        yield "marked: spelled" if token is None else f"marked: spelled | TEXT? <[{token}]>"
    else:
        # Some decoders leave out a space that an answer begins with: a marker would be first then.
        marked = rf"\x{{{ord(marker[0]):x}}}"
        yield f"start: (FIRST{more} | SPACE)? | {json.dumps(marker)} calls"
        yield rf"FIRST: / ?[^ {marked}](.|\n)*|  (.|\n)*/"
        yield "SPACE: / /"


def _literal(text: str, specials: Mapping[str, int]) -> str:
    parts = (
        f"<[{specials[part]}]>" if part in specials else json.dumps(part)
        for part in _parts(text, specials)
    )
    return " ".join(parts) or '""'


def _parts(text: str, specials: Mapping[str, int]) -> list[str]:
    """Return a text cut into special tokens and what is between."""
    if not specials:
        return [text] if text else []
    names = "|".join(map(re.escape, sorted(specials, key=len, reverse=True)))
    return [part for part in re.split(f"({names})", text) if part]
