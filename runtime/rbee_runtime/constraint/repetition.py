"""How large a regular expression is, once all that it counts is written out."""

from __future__ import annotations

import re
from typing import Final

MOST_REPETITIONS: Final = 5_000
"""Characters of the patterns of one constraint, written out. What has more takes a second a token:
``(a{1000}){1000}`` has a million.
"""

_COUNT: Final = re.compile(r"\{(\d+)(,?)(\d*)\}")
_ESCAPE: Final = re.compile(r"\\(?:[pPx]\{[^}]*\}|.)", re.DOTALL)
_CLASS: Final = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]?", re.DOTALL)


def repetitions(pattern: str) -> int:
    """Return how many characters and classes a pattern has with its counted parts written out.

    What it cannot read it takes for plain characters: whoever compiles the pattern refuses that.
    """
    open_groups: list[int] = []
    total = last = 0  # of the group that is being read, and of its last element
    at = 0
    while at < len(pattern):
        match pattern[at]:
            case "(":
                open_groups.append(total + last)
                total = last = 0
                at += 1
            case ")" if open_groups:
                inner = total + last
                total, last = open_groups.pop(), inner
                at += 1
            case _:
                count = _COUNT.match(pattern, at)
                if count is not None:
                    last = max(last, 1) * max(1, *(int(n[:9]) for n in count.group(1, 3) if n))
                    at = count.end()
                    continue
                one = _ESCAPE.match(pattern, at) or _CLASS.match(pattern, at)
                total, last = total + last, 1
                at = at + 1 if one is None else one.end()
    return total + last + sum(open_groups)
