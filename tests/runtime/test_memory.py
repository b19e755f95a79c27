"""How much cache there is room for, and how it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_runtime.artifact import CacheGeometry, StateGeometry
from rbee_runtime.errors import InvalidSetting, OutOfMemory
from rbee_runtime.memory import CachePlan, CacheWish, budget_bytes, plan_cache
from rbee_runtime.transfer import BLOCK
from rbee_runtime.units import human_size

GEOMETRY = CacheGeometry(layers=3, kv_heads=2, head_dim=16, dtype="float32")
A_TOKEN = 2 * 3 * 2 * 16 * 4
CHUNK = 256


def state(width: int) -> StateGeometry:
    return StateGeometry(layers=(0, 2), channels=4, taps=4, heads=2, key_dim=8, value_dim=width)


def plan(
    tokens: int, *, model: int = 8192, slots: int | None = None, context: int | None = None
) -> CachePlan:
    """Plan with room for so many tokens."""
    return plan_cache(GEOMETRY, model, tokens * A_TOKEN, slots=slots, context=context, chunk=CHUNK)


def test_a_budget_is_a_share_of_what_is_free_or_a_number_of_bytes() -> None:
    assert budget_bytes(0.25, 1000) == 250
    assert budget_bytes(1.0, 1000) == 1000
    assert budget_bytes(4096, 1000) == 4096
    for bad in (0, 0.0, -1, -0.5, 1.5, float("nan")):
        with pytest.raises(InvalidSetting, match="memory budget must be"):
            CacheWish(None, None, CHUNK, bad)


def test_with_plenty_every_slot_holds_the_models_context() -> None:
    assert GEOMETRY.bytes_per_token == A_TOKEN
    assert plan(10**6) == CachePlan(GEOMETRY, 16, 8192, 4 * 8192 // BLOCK, CHUNK)
    assert plan(10**6, model=100) == CachePlan(GEOMETRY, 16, 100, 400 // BLOCK, CHUNK)


def test_with_less_there_are_fewer_slots_then_shorter_ones() -> None:
    assert plan(5 * 8192 + 64) == CachePlan(GEOMETRY, 5, 8192, 2, CHUNK)
    assert plan(8192) == CachePlan(GEOMETRY, 1, 8192, 0, CHUNK)
    assert plan(1000) == CachePlan(GEOMETRY, 1, 1000, 0, CHUNK)


def test_few_long_slots_or_many_short_ones() -> None:
    assert plan(16384, slots=4) == CachePlan(GEOMETRY, 4, 4096, 0, CHUNK)
    assert plan(16384, context=1024) == CachePlan(GEOMETRY, 16, 1024, 0, CHUNK)
    assert plan(16384, slots=2, context=4096) == CachePlan(GEOMETRY, 2, 4096, 8192 // BLOCK, CHUNK)
    assert plan(64, slots=1, context=64) == CachePlan(GEOMETRY, 1, 64, 0, CHUNK)


@pytest.mark.parametrize(
    ("tokens", "asked", "needed"),
    [
        (255, {}, 256),
        (39, {"model": 40}, 40),
        (1000, {"slots": 8}, 8 * 256),
        (4000, {"context": 4096}, 4096),
        (16000, {"context": 4096, "slots": 4}, 4 * 4096),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(
    tokens: int, asked: dict[str, int], needed: int
) -> None:
    with pytest.raises(OutOfMemory, match=f"needs {human_size(needed * A_TOKEN)} for") as caught:
        plan(tokens, **asked)
    assert f"has {human_size(tokens * A_TOKEN)}: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("nbytes", "said"),
    [
        (0, "0.0 kB"),
        (999_949, "999.9 kB"),
        (1_000_000, "1.0 MB"),
        (4 << 30, "4.29 GB"),
        (10**400, f"{10**391}.00 GB"),
    ],
    ids=str,
)
def test_bytes_are_told_in_a_unit_that_suits_them(nbytes: int, said: str) -> None:
    assert human_size(nbytes) == said


@pytest.mark.parametrize("asked", [{"context": 0}, {"context": 1}, {"context": 8193}])
def test_numbers_out_of_range(asked: dict[str, int]) -> None:
    with pytest.raises(InvalidSetting, match="must be"):
        plan(10**6, **asked)


@given(
    tokens=st.integers(300, 100_000),
    model=st.integers(2, 9000),
    slots=st.none() | st.integers(1, 40),
    special=st.none() | st.integers(1, 4000) | st.builds(state, st.integers(1, 1000)),
)
def test_a_plan_never_exceeds_its_budget(
    tokens: int, model: int, slots: int | None, special: int | StateGeometry | None
) -> None:
    if isinstance(special, StateGeometry):
        geometry = GEOMETRY.model_copy(update={"state": special})
    else:
        layers = () if special is None else (0, 2)
        geometry = GEOMETRY.model_copy(update={"window": special, "windowed_layers": layers})
    budget = tokens * A_TOKEN
    try:
        made = plan_cache(geometry, model, budget, slots=slots, context=None, chunk=CHUNK)
    except OutOfMemory:
        assert (slots or 1) * geometry.slot_bytes(min(256, model), CHUNK) > budget
        return
    blocks = made.blocks * geometry.block_bytes(BLOCK)
    blocks += (made.snapshots or 0) * geometry.state_bytes
    assert (made.snapshots is None) == (geometry.state is None)
    assert made.snapshots is None or (made.blocks > 0) == (made.snapshots > 0)
    assert made.slots * geometry.slot_bytes(made.capacity, CHUNK) + blocks <= budget
    assert made.slots == (slots or made.slots)
    assert 1 <= made.capacity <= model
