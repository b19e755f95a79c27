"""What memory there is, what is used, and how the cache is cut from its share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil

from rbee_runtime.artifact import CacheGeometry
from rbee_runtime.errors import InvalidSetting, OutOfMemory
from rbee_runtime.memory_limits import address_space_left, control_groups_left
from rbee_runtime.transfer import BLOCK
from rbee_runtime.units import human_size

DEFAULT_BUDGET = 0.5
"""Part of the free memory a cache may take; the rest is for activations and for other programs."""

MOST_SLOTS = 16
"""Slots unless asked for otherwise: beyond that, rows hardly share any more work on a CPU."""

MOST_SLOTS_ON_GPU = 64
"""Slots unless asked for otherwise on a GPU, which reads its weights once for all of them."""

_LEAST_CAPACITY = 256
"""Positions below which a slot is of no use."""

_MOST_KEPT = 4
"""Slots' worth of positions kept for sequences that begin alike, at most."""

_BLOCKS_OF_A_SNAPSHOT = 32
"""Blocks that there are for each snapshot, where there is no room for all."""

Budget = float | int
"""Memory for the cache: a share of what is free (a float in 0.0 to 1.0), or bytes (an int)."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory held on the device (the host's for the CPU), in bytes.

    Attributes:
        weights: The model's weights: the size of their files, or what a TensorRT engine says.
            Kernels that pack weights hold them in another number of bytes: the total has that.
        cache: What the KV cache has used at most; on the CPU, memory comes as it is first written.
        cache_reserved: What it may come to use.
        workspace: What the total has beyond weights and cache, mostly activations and libraries; 0
            if it has less than these.
        total: All that the process holds, as the system reports it.
    """

    weights: int
    cache: int
    cache_reserved: int
    workspace: int
    total: int


@dataclass(frozen=True, slots=True)
class CacheWish:
    """What a cache is to be like.

    Attributes:
        slots: Sequences to hold at a time; ``None`` for as many as fit.
        context: Positions of each; ``None`` for the model's context, or what fits.
        chunk: Tokens that a step adds to a slot at most.
        budget: Its memory.

    Raises:
        InvalidSetting: There is to be no slot, or the budget is a share outside 0.0 to 1.0, or not
            positive.
    """

    slots: int | None
    context: int | None
    chunk: int
    budget: Budget

    def __post_init__(self) -> None:
        """Refuse what no memory would do for."""
        if self.slots is not None and self.slots < 1:
            raise InvalidSetting("slots must be at least 1")
        if not self.budget > 0 or (isinstance(self.budget, float) and self.budget > 1.0):
            raise InvalidSetting(
                "the memory budget must be a share in (0.0, 1.0] or a number of bytes"
            )


@dataclass(frozen=True, slots=True)
class CachePlan:
    """How large the cache is.

    Attributes:
        geometry: What it is of.
        slots: Sequences it holds at a time.
        capacity: Positions of each.
        blocks: Blocks of positions kept for sequences that begin alike.
        chunk: Tokens that a step adds to a slot at most.
        snapshots: Snapshots of states kept besides; ``None`` where sequences have no states.
    """

    geometry: CacheGeometry
    slots: int
    capacity: int
    blocks: int
    chunk: int
    snapshots: int | None = None


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return int(psutil.Process().memory_info().rss)


def available_bytes() -> int:
    """Return the memory this process can still have: the host's, or less where it is limited."""
    free = int(psutil.virtual_memory().available)
    limits = (address_space_left(), control_groups_left())
    return min([free, *(left for left in limits if left is not None)])


def check_context(context: int | None, longest: int, why: str = "the model was made for") -> None:
    """Refuse a context length that is none, or more than ``longest``.

    Raises:
        InvalidSetting: It is below 2, or more.
    """
    if context is not None and not 2 <= context <= longest:
        raise InvalidSetting(f"the context length must be from 2 to {longest}, which {why}")


def budget_bytes(budget: Budget, available: int) -> int:
    """Return a budget in bytes, given the bytes that are free."""
    if isinstance(budget, int):
        return budget
    return int(available * budget)


def plan_cache(
    geometry: CacheGeometry,
    model_context: int,
    budget: int,
    *,
    slots: int | None,
    context: int | None,
    chunk: int,
    spare: int = 0,
    most_slots: int = MOST_SLOTS,
) -> CachePlan:
    """Cut a cache from a budget.

    What is left open is decided in this order: a slot holds the model's context, or all that fits;
    there are as many slots as fit, up to ``most_slots``; what is left is for blocks, and where
    sequences have states, for snapshots of these.

    Args:
        geometry: Of the model's cache.
        model_context: Positions the model was made for.
        budget: Bytes for slots and blocks.
        slots: Slots to have; ``None`` for as many as fit.
        context: Positions of each; ``None`` for as many as fit.
        chunk: Tokens that a step adds to a slot at most.
        spare: Slots the backend needs besides.
        most_slots: Slots to have at most where their number is left open.

    Raises:
        OutOfMemory: What was asked for, or one useful slot, does not fit the budget.
        InvalidSetting: ``context`` is below 2 or more than the model's.
    """
    check_context(context, model_context)

    def size(capacity: int) -> int:
        return geometry.slot_bytes(capacity, chunk)

    wanted = (slots or 1) + spare
    capacity = context or model_context
    if context is None and wanted * size(capacity) > budget:
        capacity = _largest(model_context, lambda n: wanted * size(n) <= budget)
    least = min(_LEAST_CAPACITY, capacity if context else model_context)
    if capacity < least or wanted * size(capacity) > budget:
        raise OutOfMemory(
            f"the KV cache needs {human_size(wanted * size(max(capacity, least)))} for "
            f"{slots or 1} x {max(capacity, least)} tokens and has {human_size(budget)}: "
            "allow it more memory, fewer slots or a shorter context, or serve a smaller model"
        )
    count = slots or max(1, min(most_slots, budget // size(capacity) - spare))
    left = budget - (count + spare) * size(capacity)
    snapshots, block = None, geometry.block_bytes(BLOCK)
    if geometry.state is not None:
        # Without blocks for what is before it, a snapshot is of no use, nor they without it.
        each = geometry.state_bytes + _BLOCKS_OF_A_SNAPSHOT * block
        snapshots = max(0, min(left // each, _MOST_KEPT * count)) if capacity > BLOCK else 0
        left = left - snapshots * geometry.state_bytes if snapshots else 0
    kept = min(left // block, _MOST_KEPT * capacity // BLOCK)
    return CachePlan(geometry, count, capacity, max(0, kept), chunk, snapshots)


def _largest(limit: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to ``limit`` that fits; 0 if none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
