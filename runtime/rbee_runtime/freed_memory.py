"""Memory that was freed, and that the process holds all the same."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def forget_freed() -> None:
    """Give it back to the system.

    Where the system's library does not know how, as musl does not, it stays.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
