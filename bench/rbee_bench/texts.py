"""Texts to embed: questions, and what may answer them."""

from __future__ import annotations

from importlib import import_module

QUESTIONS = (
    "how does a generator give its values one by one",
    "when is the else clause of a loop executed",
    "what does a descriptor's get method receive",
    "is the order in which operands are evaluated defined",
    "how to delete an item from a list",
    "what happens if an exception is raised in a finally clause",
    "difference between mutable and immutable objects",
    "how are default parameter values evaluated",
    "when is a class body executed",
    "pattern matching on a mapping",
    "how are names resolved in nested scopes",
    "what is a metaclass for",
    "how do I make an object callable",
    "are raw strings allowed to end in a backslash",
    "what does the global statement do",
    "how does import find a module",
    "comparing objects of different types",
    "what does an assertion do when optimisation is on",
    "asynchronous iteration",
    "how is an integer converted to a string in base 16",
    "which objects can be keys of a dictionary",
    "what is the walrus operator",
    "context managers and the with statement",
    "how to format a number with a thousands separator",
    "slicing with a negative step",
    "what does yield from delegate to",
    "how are keyword arguments matched to parameters",
    "weak references and garbage collection",
    "why does a float not equal its decimal value",
    "how long does an object live",
    "decorators on a function definition",
    "what is in the dictionary of a module",
)
"""What people type into a search field, of the length they type it in."""

_SHORTEST = 40
_ENDS = (".", ":")


def paragraphs() -> list[str]:
    """Return the prose of the Python language reference, which every Python carries.

    Paragraphs of one sentence to a dozen, in no order of length; each once.
    """
    found: dict[str, None] = {}
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    for topic in sorted(topics):
        for block in topics[topic].split("\n\n"):
            text = " ".join(block.split())
            # Headings have no full stop; what is indented is code or grammar.
            prose = block[:1].isupper() and text.endswith(_ENDS) and "***" not in text
            if prose and len(text) >= _SHORTEST:
                found[text] = None
    return list(found)


def evenly(texts: list[str], count: int) -> list[str]:
    """Return so many of the texts, from everywhere among them; all if there are fewer."""
    count = min(count, len(texts))
    return [texts[place * len(texts) // count] for place in range(count)]
