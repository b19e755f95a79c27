"""How much cache there is room for."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from rbee_runtime.artifact import CacheGeometry
from rbee_runtime.cache import KvArena
from rbee_runtime.errors import OutOfMemory
from rbee_runtime.memory import plan_capacity, resident_bytes

GEOMETRY = CacheGeometry(layers=3, kv_heads=2, head_dim=16, dtype="float32")
A_TOKEN = 2 * 3 * 2 * 16 * 4


def with_memory(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))


def test_the_models_context_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GEOMETRY.bytes_per_token == A_TOKEN
    with_memory(monkeypatch, 100_000 * A_TOKEN)
    assert plan_capacity(GEOMETRY, 8192, slots=4) == 8192
    assert plan_capacity(GEOMETRY, 100, slots=4) == 100


def test_less_where_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, 4000 * A_TOKEN)
    capacity = plan_capacity(GEOMETRY, 8192, slots=4)
    assert 256 <= capacity < 1000
    assert plan_capacity(GEOMETRY, 8192, slots=2) == 2 * capacity


@pytest.mark.parametrize(("context", "available"), [(8192, 255), (40, 39)])
def test_none_where_no_conversation_fits(
    context: int, available: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, available * A_TOKEN)
    with pytest.raises(OutOfMemory, match="the KV cache needs 768 bytes a token") as caught:
        plan_capacity(GEOMETRY, context, slots=1)
    assert "\n" not in str(caught.value)


def test_slots_and_layers_of_the_arena_lie_apart() -> None:
    arena = KvArena(GEOMETRY, slots=2, capacity=8)
    assert arena.nbytes == 2 * 8 * A_TOKEN
    views = [
        view(layer, slot)
        for view in (arena.keys, arena.values)
        for layer in range(3)
        for slot in range(2)
    ]
    for number, view in enumerate(views):
        assert view.shape == (1, 2, 8, 16)
        assert view.flags.c_contiguous
        view[:] = number
    assert all((view == number).all() for number, view in enumerate(views))


def test_a_cache_costs_what_it_holds() -> None:
    before = resident_bytes()
    arena = KvArena(GEOMETRY, slots=4, capacity=100_000)
    assert arena.nbytes > 300_000_000
    for layer in range(3):
        arena.keys(layer, 1)[:, :, :10] = 1.0
    assert resident_bytes() - before < 8 << 20
