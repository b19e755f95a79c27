"""The KV cache: the memory of all slots, bound in place by the backend, and of the blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from rbee_runtime.artifact import CacheGeometry
from rbee_runtime.device.device import Array, Device
from rbee_runtime.errors import OutOfMemory
from rbee_runtime.transfer import BLOCK, Load, Move, Store, Swap, Transfer

_PIECE = 256
"""Positions of a slot exchanged at a time, for which there has to be room beside the slots."""


class KvArena:
    """Keys and values of every layer, of slots and of blocks, in the memory of a device.

    On the CPU, the operating system hands out pages as they are first written, so that a slot
    costs what it holds, not what it could hold.

    Layers that attend to a window keep what it reaches back to and a little more. When that is
    full, the part still needed moves to the front: what such a layer holds of a slot begins at
    position :meth:`start`, not at 0.

    Attributes:
        slots: Sequences it holds at a time.
        capacity: Positions of each slot.
        blocks: Blocks it has beside the slots.
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
    ) -> None:
        """Reserve the memory.

        Args:
            geometry: The model's.
            slots: Sequences to hold at a time.
            capacity: Positions of each slot.
            blocks: Blocks to have.
            chunk: Tokens that a step adds to a slot at most.
            device: Where to.

        Raises:
            OutOfMemory: The device does not have it.
        """
        self._device = device
        self.slots = slots
        self.capacity = capacity
        self.blocks = blocks
        self._whole = _Layers(geometry, geometry.whole_layers, slots, capacity, device)
        self._keep = (geometry.window or 0) + BLOCK
        room = geometry.window_capacity(capacity, chunk)
        self._windowed = _Layers(geometry, geometry.windowed_layers, slots, room, device)
        self._chunk = max(chunk, BLOCK)
        self._start = [0] * slots
        self._held = [0] * slots
        self._most = [0] * slots
        self._filled_blocks = 0
        shape = (blocks, geometry.layers, 2, geometry.kv_heads, BLOCK, geometry.head_dim)
        self._blocks = _reserve(device, shape, geometry.dtype)
        self.nbytes = self._whole.data.nbytes + self._windowed.data.nbytes + self._blocks.nbytes
        self._used = partial(geometry.slot_bytes, chunk=chunk)
        self._block_bytes = geometry.block_bytes(BLOCK)

    @property
    def window_capacity(self) -> int:
        """Positions of each slot in layers with a window."""
        return self._windowed.capacity

    @property
    def used(self) -> int:
        """Bytes that have been written at some time, and so are memory."""
        return sum(map(self._used, self._most)) + self._filled_blocks * self._block_bytes

    def rows(self, layer: int, first: int, count: int) -> tuple[Array, Array]:
        """Return a layer's keys and values in some slots, each ``[count, heads, capacity, width]``.

        They are views of the cache's memory.
        """
        layers = self._whole if layer in self._whole.index else self._windowed
        data = layers.data[layers.index[layer]]
        return data[0, first : first + count], data[1, first : first + count]

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
        dropped = held - min(held, self._keep)
        data = self._windowed.data[:, :, slot]
        # No more at a time than was dropped: what is read and what is written do not overlap.
        for start in range(0, held - dropped, dropped):
            stop = min(start + dropped, held - dropped)
            source = data[:, :, :, start + dropped : stop + dropped]
            self._device.copy(data[:, :, :, start:stop], source)
        self._start[slot] += dropped

    def fill(self, slot: int, past: int, count: int) -> None:
        """Make room for positions of a slot, and hold them: a step is about to write them.

        Raises:
            ValueError: There are more than a step adds.
        """
        self.make_room(slot, past, count)
        self._held[slot] = past + count

    def transfer(self, transfer: Transfer) -> None:
        """Make a copy within the cache."""
        match transfer:
            case Move(source, target, positions):
                self._whole.move(source, target, positions)
                self._windowed.move(source, target, positions - self._start[source])
                self._start[target] = self._start[source]
                self._held[target] = positions
                self._most[target] = max(self._most[target], positions)
            case Swap(one, other, positions):
                self._whole.swap(one, other, positions)
                self._windowed.swap(one, other, self._windowed.capacity)
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

    def _parts(self, block: int) -> tuple[Array, Array]:
        """Return a block's layers without a window, and those with one.

        Each ``[layers, 2, heads, BLOCK, width]``.
        """
        count = len(self._whole.index)
        return self._blocks[block, :count], self._blocks[block, count:]


class _Layers:
    """Keys and values of layers that hold equally many positions.

    Attributes:
        index: Where each layer is.
        capacity: Positions of each slot.
        data: ``[layers, 2, slots, heads, capacity, width]``.
    """

    def __init__(
        self,
        geometry: CacheGeometry,
        layers: Sequence[int],
        slots: int,
        capacity: int,
        device: Device,
    ) -> None:
        self.index = {layer: i for i, layer in enumerate(layers)}
        self.capacity = capacity
        shape = (len(layers), 2, slots, geometry.kv_heads, capacity, geometry.head_dim)
        self.data = _reserve(device, shape, geometry.dtype)
        # A slot alone has none to exchange with.
        piece = min(_PIECE, capacity) if slots > 1 else 0
        aside = (len(layers), 2, geometry.kv_heads, piece, geometry.head_dim)
        self._aside = _reserve(device, aside, geometry.dtype)
        self._device = device

    def span(self, slot: int, position: int) -> Array:
        """Return a block's worth of positions, a view of ``[layers, 2, heads, BLOCK, width]``."""
        return self.data[:, :, slot, :, position : position + BLOCK]

    def move(self, source: int, target: int, positions: int) -> None:
        self._device.copy(
            self.data[:, :, target, :, :positions], self.data[:, :, source, :, :positions]
        )

    def swap(self, one: int, other: int, positions: int) -> None:
        for start, stop in _pieces(positions):
            aside = self._aside[:, :, :, : stop - start]
            mine = self.data[:, :, one, :, start:stop]
            theirs = self.data[:, :, other, :, start:stop]
            self._device.copy(aside, theirs)
            self._device.copy(theirs, mine)
            self._device.copy(mine, aside)


def _pieces(positions: int) -> Iterator[tuple[int, int]]:
    for start in range(0, positions, _PIECE):
        yield start, min(start + _PIECE, positions)


def _reserve(device: Device, shape: tuple[int, ...], dtype: str) -> Array:
    """Return memory of a device for a part of the cache.

    Raises:
        OutOfMemory: The device does not have it.
    """
    try:
        return device.zeros(shape, dtype)
    except OutOfMemory as error:
        raise OutOfMemory(f"no room for the KV cache: {error}") from error
