"""The far end of an engine's process: one call a line on stdin, one answer a line on stdout.

Engines bring thread pools and copies of runtimes that must not meet. An idle one sleeps in a read.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import IO, Any, Protocol, TypeVar


class Engine(Protocol):
    """What is served.

    Attributes:
        version: Name and version of what computes.
    """

    version: str


E = TypeVar("E", bound=Engine)


def serve(opened: Callable[[], E], answer: Callable[[E, dict[str, Any]], dict[str, Any]]) -> None:
    """Open an engine and serve it until stdin ends.

    Args:
        opened: Opens it.
        answer: Answers a call.
    """
    # Libraries print; the answers keep the real stdout for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        engine = opened()
    except ImportError as error:
        _say(answers, fault=f"not installed: {error}")
        return
    except Exception as error:  # whatever a strange library raises, the others go on
        _say(answers, fault=_line(error))
        return
    _say(answers, version=engine.version)
    for line in sys.stdin:
        try:
            said = answer(engine, json.loads(line))
        except Exception as error:  # as above
            _say(answers, fault=_line(error))
        else:
            _say(answers, **said)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _say(answers: IO[str], **answer: Any) -> None:
    print(json.dumps(answer), file=answers, flush=True)
