"""Imports without what libraries bring along for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Have modules of these names be not installed to whoever asks for one in this context.

    A library that does without them then does, and starts the sooner. Modules that are imported
    already stay what they are.
    """
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # how Python marks what is not there
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
