"""How an engine is doing, as it tells others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far loading has come.

    Attributes:
        stage: ``loading_to_vram`` while weights are read, ``ready`` at the end.
        layers_loaded: Layers whose share of the bytes has been read.
        layers_total: Layers of the model.
        bytes_loaded: Bytes read so far.
    """

    stage: Literal["loading_to_vram", "ready"]
    layers_loaded: int
    layers_total: int
    bytes_loaded: int


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What the engine is doing.

    Attributes:
        slots_total: Requests it serves at a time.
        slots_available: Of these, how many are free.
        queued: Requests that wait for one.
        queue_total: Requests that may wait for one at a time.
        healthy: Whether its thread is alive and well.
        fault: What went wrong, if it is not.
    """

    slots_total: int
    slots_available: int
    queued: int
    queue_total: int
    healthy: bool
    fault: str | None
