"""What a stream that may be a terminal can show."""

from __future__ import annotations

import os
from typing import IO


def has_styles(stream: IO[str]) -> bool:
    """Return whether it shows colours and the like, and is to, by the conventions of terminals."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()
