"""Copies within the cache, as the scheduler orders them and the backend performs them.

Beside the slots, in which sequences run, a cache has blocks: memory for the keys and values of
:data:`BLOCK` positions each, kept from sequences for others that begin alike. Where sequences have
a state besides, it has snapshots as well, each of all states of a sequence at one position.
"""

from __future__ import annotations

from dataclasses import dataclass

BLOCK = 32
"""Positions of a block."""


@dataclass(frozen=True, slots=True)
class Move:
    """Bring what a slot holds to another one.

    Attributes:
        source: Slot to read.
        target: Slot to overwrite.
        positions: Positions that count.
    """

    source: int
    target: int
    positions: int


@dataclass(frozen=True, slots=True)
class Swap:
    """Exchange what two slots hold.

    Attributes:
        one: A slot.
        other: Another.
        positions: Positions that count in either.
    """

    one: int
    other: int
    positions: int


@dataclass(frozen=True, slots=True)
class Store:
    """Keep a block of a slot.

    Attributes:
        slot: Slot to read.
        position: First position to read.
        block: Block to overwrite.
    """

    slot: int
    position: int
    block: int


@dataclass(frozen=True, slots=True)
class Load:
    """Continue a slot with a block. Those of a sequence come in order, from position 0.

    Attributes:
        block: Block to read.
        slot: Slot to write.
        position: First position to write.
    """

    block: int
    slot: int
    position: int


@dataclass(frozen=True, slots=True)
class StoreState:
    """Keep the states of a slot as they are.

    Attributes:
        slot: Slot to read.
        snapshot: Snapshot to overwrite.
    """

    slot: int
    snapshot: int


@dataclass(frozen=True, slots=True)
class LoadState:
    """Have a slot go on with the states of a snapshot, once its blocks have been loaded.

    Attributes:
        snapshot: Snapshot to read.
        slot: Slot to write.
        position: Positions that the states are of.
    """

    snapshot: int
    slot: int
    position: int


Transfer = Move | Swap | Store | Load | StoreState | LoadState
