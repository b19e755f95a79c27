"""The KV cache: the memory of all slots, bound in place by the backend, and of the blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from rbee_runtime.artifact import CacheGeometry
from rbee_runtime.cache_layers import Layers, States, reserve
from rbee_runtime.device.device import Array, Device
from rbee_runtime.step import Row
from rbee_runtime.transfer import BLOCK, Load, LoadState, Move, Store, StoreState, Swap, Transfer


class KvArena:
    """Keys and values of every layer, of slots and of blocks, in the memory of a device.

    On the CPU, the operating system hands out pages as they are first written, so that a slot
    costs what it holds, not what it could hold.

    Layers that attend to a window keep what it reaches back to and a little more. When that is
    full, the part still needed moves to the front: what such a layer holds of a slot begins at
    position :meth:`start`, not at 0.

    Layers that keep a state of a slot have it as of one position, and cannot go back: a slot is
    filled from there on, or anew, from position 0.

    Attributes:
        slots: Sequences it holds at a time.
        capacity: Positions of each slot.
        blocks: Blocks it has beside the slots.
        snapshots: Snapshots of states it has beside them.
        nbytes: Bytes of all of it.
    """

    def __init__(
        self,
        geometry: CacheGeometry,
        slots: int,
        capacity: int,
        blocks: int,
        *,
        chunk: int,
        device: Device,
        snapshots: int = 0,
    ) -> None:
        """Reserve the memory.

        Args:
            geometry: The model's.
            slots: Sequences to hold at a time.
            capacity: Positions of each slot.
            blocks: Blocks to have.
            chunk: Tokens that a step adds to a slot at most.
            device: Where to.
            snapshots: Snapshots to have, where slots have states.

        Raises:
            OutOfMemory: The device does not have it.
        """
        self._device = device
        self.slots = slots
        self.capacity = capacity
        self.blocks = blocks
        self.snapshots = snapshots
        self._whole = Layers(geometry, geometry.whole_layers, slots, capacity, device)
        self._keep = (geometry.window or 0) + BLOCK
        self._together = geometry.together
        room = geometry.window_capacity(capacity, chunk)
        self._windowed = Layers(geometry, geometry.windowed_layers, slots, room, device)
        self._states = States(geometry.state, slots, snapshots, device)
        self._has_states = geometry.state is not None
        self._chunk = max(chunk, BLOCK)
        self._start = [0] * slots
        self._held = [0] * slots
        self._most = [0] * slots
        self._filled_blocks = 0
        self._filled_snapshots = 0
        self._state_bytes = geometry.state_bytes
        kept = len(geometry.whole_layers) + len(geometry.windowed_layers)
        shape = (blocks, kept, 2, geometry.kv_heads, geometry.rows(BLOCK), geometry.head_dim)
        self._blocks = reserve(device, shape, geometry.element)
        slot_bytes = self._whole.data.nbytes + self._windowed.data.nbytes + self._states.nbytes
        self.nbytes = slot_bytes + self._blocks.nbytes
        self._used = partial(geometry.slot_bytes, chunk=chunk)
        self._block_bytes = geometry.block_bytes(BLOCK)

    @property
    def window_capacity(self) -> int:
        """Positions of each slot in layers with a window."""
        return self._windowed.capacity

    @property
    def used(self) -> int:
        """Bytes that have been written at some time, and so are memory."""
        slots = sum(self._used(most) for most in self._most if most)
        kept = self._filled_blocks * self._block_bytes
        return slots + kept + self._filled_snapshots * self._state_bytes

    def rows(self, layer: int, first: int, count: int) -> tuple[Array, Array]:
        """Return a layer's keys and values in some slots, each ``[count, heads, rows, width]``.

        They are views of the cache's memory.
        """
        layers = self._whole if layer in self._whole.index else self._windowed
        data = layers.data[layers.index[layer]]
        return data[0, first : first + count], data[1, first : first + count]

    def states(self, layer: int, first: int, count: int) -> Mapping[str, Array]:
        """Return what a layer keeps of some slots instead, by name, each ``[count, ...]``.

        They are views of the cache's memory.
        """
        return self._states.rows(layer, first, count)

    def start(self, slot: int) -> int:
        """Return the first position that layers with a window hold of a slot."""
        return self._start[slot]

    def hold(self, slot: int, positions: int) -> None:
        """Know how many positions a slot holds, now that a step has written them."""
        self._held[slot] = positions

    def next_position(self, slot: int) -> int:
        """Return where a slot's owner will write next: what is written there before is no loss.

        A sequence never fills its slot: its last token is drawn, and not run.
        """
        return min(self._held[slot], self.capacity - 1)

    def make_room(self, slot: int, past: int, count: int) -> None:
        """See that a slot can take ``count`` positions after the first ``past``.

        Raises:
            ValueError: That is more than a step adds.
        """
        if count > self._chunk:
            raise ValueError(f"a step adds at most {self._chunk} positions, not {count}")
        if past == 0:
            self._start[slot] = 0
        self._most[slot] = max(self._most[slot], past + count)
        held = past - self._start[slot]
        if held + count <= self._windowed.capacity:
            return
        dropped = (held - min(held, self._keep)) // self._together * self._together
        # No more at a time than was dropped: what is read and what is written do not overlap.
        for start in range(0, held - dropped, dropped):
            stop = min(start + dropped, held - dropped)
            source = self._windowed.positions(slot, start + dropped, stop + dropped)
            self._device.copy(self._windowed.positions(slot, start, stop), source)
        self._start[slot] += dropped

    def fill(self, slot: int, past: int, count: int) -> None:
        """Make room for positions of a slot, and hold them: a step is about to write them.

        Raises:
            ValueError: There are more than a step adds.
            InferenceFailed: The slot has a state, and not as of ``past``.
        """
        self.make_room(slot, past, count)
        if self._has_states:
            self._states.continue_from(slot, past)
        self._held[slot] = past + count

    def settle(self, first: int, rows: Sequence[Row]) -> None:
        """Know that a step has run rows, in slots one after another.

        The states of each are as of its end.
        """
        if self._has_states:
            self._states.at[first : first + len(rows)] = [row.end for row in rows]

    def transfer(self, transfer: Transfer) -> None:
        """Make a copy within the cache."""
        match transfer:
            case Move(source, target, positions):
                self._whole.move(source, target, positions)
                self._windowed.move(source, target, positions - self._start[source])
                self._states.move(source, target)
                self._start[target] = self._start[source]
                self._held[target] = positions
                self._most[target] = max(self._most[target], positions)
            case Swap(one, other, positions):
                self._whole.swap(one, other, positions)
                self._windowed.swap(one, other, self._windowed.capacity)
                self._states.swap(one, other)
                for known in (self._start, self._held):
                    known[one], known[other] = known[other], known[one]
                self._most[one] = max(self._most[one], positions)
                self._most[other] = max(self._most[other], positions)
            case Store(slot, position, block):
                whole, windowed = self._parts(block)
                self._filled_blocks = max(self._filled_blocks, block + 1)
                self._device.copy(whole, self._whole.span(slot, position))
                held = self._windowed.span(slot, position - self._start[slot])
                self._device.copy(windowed, held)
            case Load(block, slot, position):
                self.make_room(slot, position, BLOCK)
                whole, windowed = self._parts(block)
                self._device.copy(self._whole.span(slot, position), whole)
                held = self._windowed.span(slot, position - self._start[slot])
                self._device.copy(held, windowed)
                self._held[slot] = position + BLOCK
            case StoreState(slot, snapshot):
                self._filled_snapshots = max(self._filled_snapshots, snapshot + 1)
                self._states.store(slot, snapshot)
            case LoadState(snapshot, slot, position):
                self._states.load(snapshot, slot, position)

    def _parts(self, block: int) -> tuple[Array, Array]:
        """Return a block's layers without a window, and those with one.

        Each ``[layers, 2, heads, rows, width]``.
        """
        count = len(self._whole.index)
        return self._blocks[block, :count], self._blocks[block, count:]
