"""What memory there is, what is used, and how much of it the cache may have."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from rbee_runtime.artifact import CacheGeometry
from rbee_runtime.errors import OutOfMemory

_CACHE_SHARE = 0.5
"""Part of the free memory a cache may take; the rest is for activations and for other programs."""

_LEAST_CAPACITY = 256
"""Positions below which a slot is of no use."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory held on the device (the host's for the CPU), in bytes.

    Attributes:
        weights: The model's weights.
        cache: The KV cache's address range.
        workspace: The rest of ``total`` beyond weights and cache in use: activations and libraries.
        total: All that the process holds, as the system reports it.
    """

    weights: int
    cache: int
    workspace: int
    total: int


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return int(psutil.Process().memory_info().rss)


def plan_capacity(geometry: CacheGeometry, context_length: int, slots: int) -> int:
    """Return how many positions each slot of the cache gets: the model's context if that fits.

    Raises:
        OutOfMemory: Not even a useful minimum fits.
    """
    free = int(psutil.virtual_memory().available * _CACHE_SHARE)
    capacity = min(context_length, free // (slots * geometry.bytes_per_token))
    if capacity < min(_LEAST_CAPACITY, context_length):
        raise OutOfMemory(
            f"the KV cache needs {geometry.bytes_per_token} bytes a token and has {free} bytes: "
            "not enough for a conversation; free memory or serve a smaller model"
        )
    return capacity
