"""The arena: who lies where, what copies do, and what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rbee_runtime.artifact import CacheGeometry
from rbee_runtime.cache import KvArena
from rbee_runtime.device import Array, HostDevice
from rbee_runtime.memory import resident_bytes
from rbee_runtime.transfer import BLOCK, Load, Move, Store, Swap

HOST = HostDevice()
GEOMETRY = CacheGeometry(layers=3, kv_heads=2, head_dim=4, dtype="float32")
WINDOW = 40
WINDOWED = GEOMETRY.model_copy(update={"window": WINDOW, "windowed_layers": (0, 2)})
A_TOKEN = 2 * 3 * 2 * 4 * 4


class Slots:
    """Sequences run in an arena: every position of every layer holds a number of its own."""

    def __init__(self, geometry: CacheGeometry, slots: int, blocks: int, chunk: int = 16) -> None:
        self.geometry = geometry
        self.together = geometry.together
        self.arena = KvArena(geometry, slots, 512, blocks, chunk=chunk, device=HOST)
        self.held: list[list[int]] = [[] for _ in range(slots)]

    def run(self, slot: int, numbers: list[int]) -> None:
        """Add positions, as a step does."""
        past = len(self.held[slot])
        self.arena.make_room(slot, past, len(numbers))
        for layer in range(self.geometry.layers):
            at = past - self.start(layer, slot)
            for sign, part in zip((1, -1), self.arena.rows(layer, slot, 1), strict=True):
                values = np.asarray(numbers, np.float32) * sign + layer * 0.25
                places = np.arange(at, at + len(numbers))
                self.panels(part)[:, places // self.together, places % self.together] = values
        self.held[slot] += numbers

    def panels(self, part: Array) -> NDArray[Any]:
        """Return room for a number of each position: ``[heads, panels, positions]``."""
        assert isinstance(part, np.ndarray)
        panel = self.geometry.rows(self.together) * self.geometry.head_dim
        view = part.reshape(self.geometry.kv_heads, -1, panel)
        assert np.shares_memory(view, part)
        return view[..., : self.together]

    def start(self, layer: int, slot: int) -> int:
        return self.arena.start(slot) if layer in self.geometry.windowed_layers else 0

    def check(self, slot: int) -> None:
        """See that every layer still holds all it has to."""
        numbers = np.asarray(self.held[slot], np.float32)
        for layer in range(self.geometry.layers):
            start = self.start(layer, slot)
            if layer in self.geometry.windowed_layers:
                assert start <= max(0, len(numbers) - WINDOW)
            for sign, part in zip((1, -1), self.arena.rows(layer, slot, 1), strict=True):
                places = np.arange(len(numbers) - start)
                held = self.panels(part)[:, places // self.together, places % self.together]
                expected = numbers[start:] * sign + layer * 0.25
                np.testing.assert_array_equal(held, np.broadcast_to(expected, held.shape))


def test_slots_and_layers_lie_apart_and_rows_together() -> None:
    arena = KvArena(GEOMETRY, slots=3, capacity=8, blocks=0, chunk=1, device=HOST)
    assert arena.nbytes == 3 * 8 * A_TOKEN
    views = [view for layer in range(3) for slot in range(3) for view in arena.rows(layer, slot, 1)]
    for number, view in enumerate(views):
        assert view.shape == (1, 2, 8, 4)
        assert view.flags.c_contiguous
        view[:] = number
    assert all((view == number).all() for number, view in enumerate(views))
    keys, values = arena.rows(1, 1, 2)
    assert keys.flags.c_contiguous
    assert [keys[0, 0, 0, 0], keys[1, 0, 0, 0]] == [views[8][0, 0, 0, 0], views[10][0, 0, 0, 0]]
    assert (values[0] == 9).all()


def test_a_window_takes_less() -> None:
    whole = KvArena(GEOMETRY, slots=2, capacity=4096, blocks=0, chunk=16, device=HOST)
    windowed = KvArena(WINDOWED, slots=2, capacity=4096, blocks=0, chunk=16, device=HOST)
    kept = WINDOW + 3 * BLOCK
    assert whole.nbytes == 2 * 4096 * A_TOKEN
    assert windowed.nbytes == 2 * (4096 + 2 * kept) * A_TOKEN // 3
    assert WINDOWED.slot_bytes(4096, 16) == windowed.nbytes // 2


@pytest.mark.parametrize("capacity", [4096, 100])
def test_eight_bits_take_17_bytes_for_32(capacity: int) -> None:
    """Of whole panels of 32 positions."""
    half, eight = (
        WINDOWED.model_copy(update={"head_dim": 64, "dtype": kind}) for kind in ("float16", "int8")
    )
    arena = KvArena(eight, slots=2, capacity=capacity, blocks=3, chunk=16, device=HOST)
    assert arena.nbytes == 2 * eight.slot_bytes(capacity, 16) + 3 * eight.block_bytes(BLOCK)
    assert eight.slot_bytes(96, 16) * 32 == half.slot_bytes(96, 16) * 17
    assert eight.slot_bytes(97, 16) == eight.slot_bytes(128, 16)
    assert eight.bytes_per_token == 3 * 2 * 2 * (64 + 2 * 2)
    assert eight.block_bytes(BLOCK) == BLOCK * eight.bytes_per_token


@pytest.mark.parametrize(
    "geometry",
    [GEOMETRY, WINDOWED, WINDOWED.model_copy(update={"dtype": "int8"})],
    ids=["whole", "windowed", "in bytes"],
)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_whatever_is_copied_arrives(geometry: CacheGeometry, data: st.DataObject) -> None:
    slots = Slots(geometry, slots=3, blocks=6)
    kept: dict[int, tuple[list[int], int]] = {}
    number = 1
    for _ in range(data.draw(st.integers(1, 25))):
        one, other = data.draw(st.permutations(range(3)))[:2]
        held = slots.held[one]
        match data.draw(st.sampled_from(["run", "run", "run", "move", "swap", "reuse", "new"])):
            case "run":
                count = data.draw(st.integers(1, 16))
                if len(held) + count > 500:
                    continue
                slots.run(one, list(range(number, number + count)))
                number += count
                held = slots.held[one]
                last = (len(held) // BLOCK - 1) * BLOCK
                if last >= len(held) - count - BLOCK and last >= 0:
                    block = last // BLOCK % 6
                    if last == 0 or kept.get(block - 1, ([], 0))[0] == held[:last]:
                        slots.arena.transfer(Store(one, last, block))
                        kept[block] = (held[: last + BLOCK], last)
            case "move":
                slots.arena.transfer(Move(one, other, len(held)))
                slots.held[other] = list(held)
            case "swap":
                most = max(len(held), len(slots.held[other]))
                slots.arena.transfer(Swap(one, other, most))
                slots.held[one], slots.held[other] = slots.held[other], held
            case "reuse":
                slots.held[one] = []
                for block in range(6):
                    if kept.get(block, ([], 0))[0][: block * BLOCK] != slots.held[one]:
                        break
                    if block not in kept or kept[block][1] != block * BLOCK:
                        break
                    slots.arena.transfer(Load(block, one, block * BLOCK))
                    slots.held[one] = list(kept[block][0])
            case "new":
                slots.held[one] = []
        for slot in range(3):
            slots.check(slot)


def test_it_costs_what_it_holds() -> None:
    geometry = GEOMETRY.model_copy(update={"head_dim": 64})
    before = resident_bytes()
    arena = KvArena(geometry, slots=4, capacity=100_000, blocks=1000, chunk=5_000, device=HOST)
    assert arena.nbytes > 300_000_000
    for slot, positions in ((1, 5_000), (3, 2_000)):
        arena.make_room(slot, 0, positions)
        for layer in range(3):
            for part in arena.rows(layer, slot, 1):
                part[:, :, :positions] = 1.0
    arena.transfer(Store(1, 64, 0))
    grown = resident_bytes() - before
    assert arena.used == 7_032 * geometry.bytes_per_token
    assert grown == pytest.approx(arena.used, rel=0.05)
