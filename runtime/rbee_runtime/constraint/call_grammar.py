"""The grammar of an answer that may call functions, in llguidance's form of Lark."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from rbee_runtime.constraint import ToolCalls
from rbee_runtime.constraint.reasoning_grammar import (
    direct,
    literal,
    marking,
    may_be_none,
    no_reasoning,
    parts,
    reasoning_rules,
)
from rbee_runtime.reasoning import Reasoning

_MOST_CALLS: Final = 32
"""Of an answer: a model that does not know when it is done would go on to its context's end."""


def call_grammar(
    constraint: ToolCalls,
    specials: Mapping[str, int],
    eos: Collection[int],
    reasoning: Reasoning | None = None,
) -> str:
    """Return the grammar, in which ``@f0`` is a grammar of the arguments of the first function.

    A marker counts as one whether it is a special token or spelled in letters: in the text that is
    told of a completion there is no difference.

    Args:
        constraint: What an answer is held to.
        specials: The vocabulary's special tokens by name.
        eos: Tokens that end a completion.
        reasoning: What may come before, in which nothing is a call.
    """
    form = constraint.form
    calls = "call"
    if constraint.parallel and form.between is not None:
        calls = f"call (between call){{0,{_MOST_CALLS - 1}}}"
    rules = ["%llguidance {}"]
    if constraint.required:
        rules.append(f"answer: opening {calls} closing")
    else:
        rules += _after_text(constraint, specials, eos, reasoning)
        rules.append(f"calls: opening {calls} closing")
    if reasoning is None:
        rules.append("start: answer")
    else:
        free = f"{direct(reasoning, specials)}answer | " if may_be_none(reasoning) else ""
        cut_short = "" if constraint.required else " | thoughts"
        rules.append(f"start: {free}reasoning answer{cut_short}")
        rules += reasoning_rules(reasoning, specials)
    opening = form.opening if constraint.required else form.opening.removeprefix(form.marker)
    if form.between is not None:
        rules.append(f"between: {literal(form.between, specials)}")
    names = (
        f"{json.dumps(one.name)} middle @f{number}"
        for number, one in enumerate(constraint.functions)
    )
    rules += [
        f"opening: {literal(opening, specials)}",
        f"call: {' | '.join(names)}",
        f"middle: {literal(form.middle, specials)}",
        f"closing: {literal(form.closing, specials)}",
    ]
    return "\n".join(rules) + "\n"


def shown(constraint: ToolCalls, specials: Mapping[str, int]) -> frozenset[int]:
    """Return the special tokens that calls are written with."""
    form = constraint.form
    text = form.opening + form.middle + form.closing + (form.between or "")
    return frozenset(specials[part] for part in parts(text, specials) if part in specials)


def _after_text(
    constraint: ToolCalls,
    specials: Mapping[str, int],
    eos: Collection[int],
    reasoning: Reasoning | None,
) -> Iterator[str]:
    """Yield the rules of text that calls may follow, or end.

    In text a model may write whatever token it likes, as without any constraint.
    """
    marker = constraint.form.marker
    others = set(specials.values()) - shown(constraint, specials) - set(eos)
    if reasoning is not None:
        others -= marking(reasoning, specials)
    other = f"<[{','.join(map(str, sorted(others)))}]>" if others else None
    none = "" if reasoning is None else no_reasoning(reasoning)
    yield rf"TEXT: /(.|\n)+/{none}"
    more = "" if other is None else " (other TEXT?)*"
    if other is not None:
        yield f"other: {other}"
    if constraint.form.marks_anywhere:
        before = "" if other is None else "(TEXT? other)* "
        yield f"answer: TEXT?{more} | {before}marked calls"
        yield rf"ANY: /(.|\n)*/{none}"
        yield f"spelled[lazy]: ANY {json.dumps(marker)}"
        token = specials.get(marker)
        yield "marked: spelled" if token is None else f"marked: spelled | TEXT? <[{token}]>"
    else:
        # Some decoders leave out a space that an answer begins with: a marker would be first then.
        marked = rf"\x{{{ord(marker[0]):x}}}"
        yield f"answer: (FIRST{more} | SPACE)? | {json.dumps(marker)} calls"
        yield rf"FIRST: / ?[^ {marked}](.|\n)*|  (.|\n)*/{none}"
        yield "SPACE: / /"
