"""What layers of one kind keep of all slots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rbee_runtime.artifact import CacheGeometry, StateGeometry
from rbee_runtime.device.device import Array, Device
from rbee_runtime.errors import InferenceFailed, OutOfMemory
from rbee_runtime.transfer import BLOCK

_PIECE = 256
"""Positions of a slot exchanged at a time, for which there has to be room beside the slots."""

_LOST = -1
"""The position of a state that a step has begun to change."""


class Layers:
    """Keys and values of layers that hold equally many positions.

    Attributes:
        index: Where each layer is.
        capacity: Positions of each slot.
        data: ``[layers, 2, slots, heads, rows, width]``, with a row for each position, or what
            :meth:`~rbee_runtime.artifact.CacheGeometry.rows` says.
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
        self._rows = geometry.rows
        width = geometry.head_dim
        shape = (len(layers), 2, slots, geometry.kv_heads, self._rows(capacity), width)
        self.data = reserve(device, shape, geometry.element)
        # A slot alone has none to exchange with.
        piece = min(_PIECE, capacity) if slots > 1 else 0
        aside = (len(layers), 2, geometry.kv_heads, self._rows(piece), width)
        self._aside = reserve(device, aside, geometry.element)
        self._device = device

    def span(self, slot: int, position: int) -> Array:
        """Return a block's worth of positions, a view of ``[layers, 2, heads, rows, width]``."""
        return self.positions(slot, position, position + BLOCK)

    def positions(self, slot: int, first: int, last: int) -> Array:
        """Return positions ``[first, last)``, alike; all that stand together, if they do."""
        return self.data[:, :, slot, :, self._rows(first) : self._rows(last)]

    def move(self, source: int, target: int, positions: int) -> None:
        """Bring the first positions of a slot to another."""
        self._device.copy(
            self.positions(target, 0, positions), self.positions(source, 0, positions)
        )

    def swap(self, one: int, other: int, positions: int) -> None:
        """Exchange the first positions of two slots."""
        for start, stop in _pieces(positions):
            aside = self._aside[:, :, :, : self._rows(stop - start)]
            mine = self.positions(one, start, stop)
            theirs = self.positions(other, start, stop)
            self._device.copy(aside, theirs)
            self._device.copy(theirs, mine)
            self._device.copy(mine, aside)


class States:
    """The states of layers that keep one instead of keys and values, if there are any.

    Args:
        geometry: Their shapes; ``None`` for none.
        slots: Sequences that have some.
        snapshots: How often all of a sequence's may be kept besides.
        device: Where to.

    Attributes:
        at: The position as of which each slot has its states.
    """

    def __init__(
        self, geometry: StateGeometry | None, slots: int, snapshots: int, device: Device
    ) -> None:
        self.at = [0] * slots
        self._device = device
        self._index = {layer: i for i, layer in enumerate(geometry.layers if geometry else ())}
        shapes = geometry.shapes if geometry else {}
        count = len(self._index)
        self._data = {
            kind: reserve(device, (count, slots + snapshots, *shape), "float32")
            for kind, shape in shapes.items()
        }
        self._slots = slots
        self._zeros = {kind: np.zeros(shape, np.float32) for kind, shape in shapes.items()}
        self._aside = {
            kind: reserve(device, shape, "float32") for kind, shape in shapes.items() if slots > 1
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(data.nbytes for data in self._data.values())

    def rows(self, layer: int, first: int, count: int) -> Mapping[str, Array]:
        """Return a layer's states of some slots, by name: views of ``[count, ...]``."""
        at = self._index[layer]
        return {kind: data[at, first : first + count] for kind, data in self._data.items()}

    def continue_from(self, slot: int, past: int) -> None:
        """See that a slot's states are as of ``past``: a step is about to change them.

        Raises:
            InferenceFailed: They are not, and ``past`` is not 0, at which all begin anew.
        """
        if not self._data:
            return
        if past == 0:
            for kind, data in self._data.items():
                for layer in range(len(self._index)):
                    self._device.write(data[layer, slot], self._zeros[kind])
        elif self.at[slot] == _LOST:
            raise InferenceFailed("what the sequence had come to was lost in a step that failed")
        elif self.at[slot] != past:
            raise InferenceFailed(
                f"the step continues at position {past} of a slot whose state is as of "
                f"{self.at[slot]}"
            )
        self.at[slot] = _LOST

    def move(self, source: int, target: int) -> None:
        """Bring the states of a slot to another."""
        for data in self._data.values():
            self._device.copy(data[:, target], data[:, source])
        self.at[target] = self.at[source]

    def store(self, slot: int, snapshot: int) -> None:
        """Keep those of a slot."""
        for data in self._data.values():
            self._device.copy(data[:, self._slots + snapshot], data[:, slot])

    def load(self, snapshot: int, slot: int, position: int) -> None:
        """Have a slot go on with those of a snapshot."""
        for data in self._data.values():
            self._device.copy(data[:, slot], data[:, self._slots + snapshot])
        self.at[slot] = position

    def swap(self, one: int, other: int) -> None:
        """Exchange the states of two slots."""
        for kind, data in self._data.items():
            for layer in range(len(self._index)):
                mine, theirs = data[layer, one], data[layer, other]
                self._device.copy(self._aside[kind], theirs)
                self._device.copy(theirs, mine)
                self._device.copy(mine, self._aside[kind])
        self.at[one], self.at[other] = self.at[other], self.at[one]


def _pieces(positions: int) -> Iterator[tuple[int, int]]:
    for start in range(0, positions, _PIECE):
        yield start, min(start + _PIECE, positions)


def reserve(device: Device, shape: tuple[int, ...], dtype: str) -> Array:
    """Return memory of a device for a part of the cache.

    Raises:
        OutOfMemory: The device does not have it.
    """
    try:
        return device.zeros(shape, dtype)
    except OutOfMemory as error:
        raise OutOfMemory(f"no room for the KV cache: {error}") from error
