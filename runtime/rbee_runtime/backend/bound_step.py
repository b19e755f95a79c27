"""The inputs of a step, bound to a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.artifact import Manifest
from rbee_runtime.backend.session import Binding
from rbee_runtime.device import Array, Device, Layout, Staging
from rbee_runtime.step import Row


class BoundStep:
    """A binding with the inputs that change from step to step.

    Attributes:
        binding: The binding itself.
        rows: Rows it runs.
    """

    def __init__(
        self,
        binding: Binding,
        device: Device,
        staging: Staging,
        *,
        sizes: tuple[int, int],
        totals: tuple[int, int] | None = None,
    ) -> None:
        """Take room for a step's inputs.

        Args:
            binding: What to run.
            device: Where it runs.
            staging: Room for the inputs of such a step, or a longer one.
            sizes: Its rows, and the tokens of each.
            totals: The most positions there are, in layers without and with a window, if those are
                to be told instead of the step's own.
        """
        self.binding = binding
        self.rows, self._width = sizes
        self._device = device
        self._staging = staging
        self._offsets = np.arange(self._width)
        host = staging.host
        self._ids = host["input_ids"][:, : self._width]
        self._positions = host["position_ids"][:, : self._width]
        whole, windowed = totals or (None, None)
        self._whole = _Filled(host["seqlens_k"], whole)
        self._windowed = _Filled(host["window_seqlens_k"], windowed)
        self._has_window = False
        self._slots: NDArray[np.int32] | None = None
        self._placed: Sequence[int] = ()
        # Of single tokens, as Python writes them: in a tenth of the time that NumPy takes.
        self._each_id = self._ids.reshape(-1).data
        self._each_position = self._positions.reshape(-1).data

    def bind(self, kinds: Sequence[str]) -> None:
        """Bind the tokens, and how full the cache is in layers of these kinds."""
        filled = {"": self._whole, "window_": self._windowed}
        self._has_window = "window_" in kinds
        self.binding.input("input_ids", self._staging.device["input_ids"][:, : self._width])
        for kind in kinds:
            filled[kind].bind(self.binding, kind, self._staging.device)

    def bind_positions(self) -> None:
        """Bind the rows of the rotary tables."""
        positions = self._staging.device["position_ids"]
        self.binding.input("position_ids", positions[:, : self._width])

    def bind_slots(self) -> None:
        """Bind where each row is in the cache, if the graph asks."""
        self._slots = np.zeros(self.rows, np.int32)
        self.binding.host_input("slots", self._slots)

    def set(
        self,
        rows: Sequence[Row],
        slots: Sequence[int],
        starts: Sequence[int],
        first_turns: Sequence[int],
    ) -> None:
        """Write the inputs of all rows.

        Args:
            rows: What each is to run.
            slots: Where each is in the cache.
            starts: Position at which each one's layers with a window begin, if there are any.
            first_turns: Row of the rotary tables that its position 0 takes.
        """
        if self._slots is not None and slots != self._placed:
            self._slots[:] = self._placed = slots
        lasts = [row.past + self._width - 1 for row in rows]
        self._whole.set(lasts)
        if self._has_window:
            self._windowed.set([last - start for last, start in zip(lasts, starts, strict=True)])
        if self._width > 1:
            self._ids[:] = [row.tokens for row in rows]
            firsts = [row.past + turn for row, turn in zip(rows, first_turns, strict=True)]
            np.add(self._offsets, np.array(firsts)[:, None], out=self._positions)
            return
        for number, (row, turn) in enumerate(zip(rows, first_turns, strict=True)):
            self._each_id[number] = row.tokens[0]
            self._each_position[number] = row.past + turn

    def run(self, tokens: int) -> None:
        """Run the session; see :meth:`Binding.run`."""
        self._device.upload(self._staging)
        self.binding.run(tokens)


class _Filled:
    """How many positions a step leaves filled, as the attention operator wants to be told.

    Args:
        seqlens: ``int32[rows]`` on the host, for the positions of each row, less one.
        total: The most positions of any row, if it is always to be told the same.
    """

    def __init__(self, seqlens: NDArray[np.int32], total: int | None) -> None:
        # The operator reads it on the host.
        self._total = np.asarray(total or 0, np.int32)
        self._is_fixed = total is not None
        self._seqlens = seqlens.data

    def bind(self, binding: Binding, prefix: str, arrays: Mapping[str, Array]) -> None:
        """Bind both to the inputs of layers of one kind."""
        binding.input(f"{prefix}seqlens_k", arrays[f"{prefix}seqlens_k"])
        binding.host_input(f"{prefix}total_sequence_length", self._total)

    def set(self, lasts: Sequence[int]) -> None:
        """Tell the last position of each row."""
        for number, last in enumerate(lasts):
            self._seqlens[number] = last
        if not self._is_fixed:
            self._total[()] = max(lasts) + 1


def step_layout(rows: int, width: int) -> Layout:
    """Return the inputs that a step of ``rows`` with ``width`` tokens each is told by."""
    return {
        "input_ids": ((rows, width), "int64"),
        "position_ids": ((rows, width), "int64"),
        "seqlens_k": ((rows,), "int32"),
        "window_seqlens_k": ((rows,), "int32"),
    }


def first_turn(manifest: Manifest, row: Row) -> int:
    """Return the row of the rotary tables that position 0 of a sequence takes."""
    long_rope = manifest.long_rope
    if long_rope is None or max(row.length, row.end) <= long_rope.original_context:
        return 0
    return long_rope.original_context


def buckets(slots: int) -> list[int]:
    """Return the numbers of rows to have bindings for: powers of two, and all slots."""
    return sorted({slots, *(1 << n for n in range(slots.bit_length()))})


def bucket_of(rows: int, sizes: Sequence[int]) -> int:
    """Return the least of the sizes, which ascend, that holds so many rows."""
    return next(size for size in sizes if size >= rows)
