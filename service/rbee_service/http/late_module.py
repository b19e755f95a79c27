"""A module that a worker brings in when it is first asked for what is in it."""

from __future__ import annotations

import asyncio
import importlib
from typing import Final


class LateModule:
    """Imports a module once, in a thread: a worker that nobody asks for it starts no slower.

    Args:
        name: Of the module.
    """

    def __init__(self, name: str) -> None:
        self._name: Final = name
        self._there = False

    async def bring_in(self) -> None:
        """Import it, if that is not done yet. Others are answered meanwhile."""
        if not self._there:
            await asyncio.to_thread(importlib.import_module, self._name)
            self._there = True
