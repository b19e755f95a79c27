"""Progress of the model's loading, for any number of watchers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """How far the model has come into memory.

    Attributes:
        layers_loaded: Decoder blocks in memory.
        layers_total: Decoder blocks of the model; 0 while it is not known.
        bytes_loaded: Bytes in memory.
    """

    layers_loaded: int = 0
    layers_total: int = 0
    bytes_loaded: int = 0

    def body(self) -> dict[str, object]:
        """Return the JSON body of the progress event."""
        return {
            "stage": "loading_to_vram",
            "layers_loaded": self.layers_loaded,
            "layers_total": self.layers_total,
            "vram_mb": self.bytes_loaded >> 20,
        }


class LoadingBoard:
    """Holds the latest progress; a watcher that is slow skips what it missed."""

    def __init__(self) -> None:
        self._latest = LayerProgress()
        self._closed = False
        self._changed = asyncio.Event()

    def post(self, progress: LayerProgress) -> None:
        """Replace the latest progress."""
        self._latest = progress
        self._announce()

    def close(self) -> None:
        """Loading has ended, well or badly."""
        self._closed = True
        self._announce()

    async def watch(self) -> AsyncIterator[LayerProgress]:
        """Yield the progress now and whenever it changes, until loading ends."""
        while not self._closed:
            changed = self._changed
            yield self._latest
            await changed.wait()

    def _announce(self) -> None:
        # Each watcher waits on the event it saw last, so none misses a change.
        self._changed.set()
        self._changed = asyncio.Event()
