"""Models that keep a state of a sequence: whose it is, from where it goes on, when it is lost."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from support.collecting import Collector, submit
from support.makers import MakeArtifact, MakeFamily
from support.running import open_cpu, prefill

from rbee_runtime.artifact import Artifact, CacheGeometry, StateGeometry
from rbee_runtime.backend.host_cache import host_cache
from rbee_runtime.backend.session import Binding
from rbee_runtime.cache import KvArena
from rbee_runtime.device import HostDevice
from rbee_runtime.engine import Engine
from rbee_runtime.errors import InferenceFailed
from rbee_runtime.events import Piece
from rbee_runtime.request import GREEDY, Request
from rbee_runtime.step import PREFILL_CHUNK, Row, Step
from rbee_runtime.transfer import BLOCK, LoadState, Move, StoreState, Swap

RANDOM = np.random.default_rng(11)
STATE = StateGeometry(layers=(0, 2), channels=6, taps=3, heads=2, key_dim=4, value_dim=5)
GEOMETRY = CacheGeometry(layers=3, kv_heads=1, head_dim=4, dtype="float32", state=STATE)


def some_ids(count: int) -> list[int]:
    """Return a prompt that runs as one chunk in any company: in others, sums differ."""
    ids: list[int] = RANDOM.integers(3, 384, count).tolist()
    return ids


REQUESTS = [Request(f"{n}", some_ids(1 + n % 8), 8 + 5 * n, GREEDY) for n in range(10)]


@pytest.fixture(
    params=[("qwen3-next-dense", "fp32"), ("qwen3-next-dense", "int8"), ("lfm2", "int8")],
    ids="-".join,
)
def artifact(
    request: pytest.FixtureRequest, make_family: MakeFamily, make_artifact: MakeArtifact
) -> Path:
    return make_artifact(make_family(request.param[0]), request.param[1])


def test_company_and_a_slot_s_former_owners_change_nothing(artifact: Path) -> None:
    """Some leave while others go on, a few before their end, and what is guessed is nothing."""
    with Engine.load(artifact, slots=1, context_length=128) as engine:
        alone = {one.request_id: submit(engine, one).finished()[0] for one in REQUESTS}
    with Engine.load(artifact, slots=3, context_length=128) as engine:
        for turn in range(2):
            met: dict[str, Collector] = {}
            for number, one in enumerate(REQUESTS):
                left = engine.stream(Request(f"left {number}", one.prompt, 60, GREEDY))
                while not isinstance(next(left), Piece):
                    pass
                met[one.request_id] = submit(engine, one)
                left.close()
            for name, collector in met.items():
                text, end = collector.finished()
                assert text == alone[name], (turn, name)
                assert end.drafted_tokens == end.reused_tokens == 0


def test_what_begins_alike_goes_on_from_a_snapshot(artifact: Path) -> None:
    """Answers are those of an engine that keeps nothing, at fp32 to the token."""
    system = some_ids(5 * BLOCK + 3)
    prompts = [[*system, *some_ids(40)] for _ in range(3)]
    prompts += [prompts[0], [*prompts[1], *some_ids(30)]]
    cache = host_cache(Artifact.open(artifact))
    room = cache.slot_bytes(512, PREFILL_CHUNK)
    with Engine.load(artifact, slots=1, context_length=512, memory_budget=room) as engine:
        wanted = [submit(engine, Request("a", ids, 20, GREEDY)).finished() for ids in prompts]
    with Engine.load(artifact, slots=2, context_length=512) as engine:
        found = [submit(engine, Request("a", ids, 20, GREEDY)).finished() for ids in prompts]
        again = submit(engine, Request("a", prompts[4], 20, GREEDY)).finished()
        memory = engine.memory()
    assert [end.reused_tokens for _, end in wanted] == [0] * 5
    # The second brings to light what both begin with; the last go on from a whole prompt.
    whole, prompt = 5 * BLOCK, len(prompts[0]) // BLOCK * BLOCK
    assert [end.reused_tokens for _, end in found] == [0, 0, whole, prompt, prompt]
    assert again[1].reused_tokens == len(prompts[4]) // BLOCK * BLOCK
    if cache.dtype == "float32":
        assert [text for text, _ in [*found, again]] == [text for text, _ in [*wanted, wanted[4]]]
    assert memory.cache < memory.cache_reserved
    assert memory.cache > 5 * cache.state_bytes


def test_a_step_that_fails_loses_the_states_it_began_to_change(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = iter([False] * 9 + [True])
    run = Binding.run

    def fail_halfway(self: Binding, tokens: int) -> None:
        run(self, tokens)
        if tokens > 1 and next(failing, False):
            raise InferenceFailed("something is wrong halfway")

    with Engine.load(artifact, slots=2, context_length=128) as engine:
        wanted = submit(engine, REQUESTS[5]).finished()[0]
        monkeypatch.setattr(Binding, "run", fail_halfway)
        prompts = (some_ids(1), some_ids(1))  # only what decodes has two tokens
        both = [submit(engine, Request(f"p{n}", ids, 60, GREEDY)) for n, ids in enumerate(prompts)]
        for collector in both:
            assert "lost in a step that failed" in str(collector.failed().error)
        assert submit(engine, REQUESTS[5]).finished()[0] == wanted


def test_nothing_goes_on_from_another_position(artifact: Path) -> None:
    backend = open_cpu(artifact, slots=2)
    first = prefill(backend, [5, 6, 7])
    with pytest.raises(InferenceFailed, match="position 2 of a slot whose state is as of 3"):
        backend.run(Step.of(0, 2, [8]))
    backend.run(Step(0, [Row(3, [8])]))
    np.testing.assert_array_equal(prefill(backend, [5, 6, 7]), first)


def test_states_go_where_their_slots_go() -> None:
    device = HostDevice()
    arena = KvArena(GEOMETRY, 3, 8, 0, chunk=4, device=device, snapshots=2)
    assert arena.nbytes == 3 * GEOMETRY.slot_bytes(8, 4) + 2 * GEOMETRY.state_bytes
    assert arena.used == 0
    assert GEOMETRY.slot_bytes(8, 4) == 8 * 2 * 4 * 4 + 2 * (2 * 6 + 2 * 4 * 5) * 4
    number = itertools.count(1)

    def values(slot: int) -> list[float]:
        arrays = [
            array for layer in STATE.layers for array in arena.states(layer, slot, 1).values()
        ]
        held = {float(value) for array in arrays for value in np.unique(array)}
        assert all(array.flags.c_contiguous and array.shape[0] == 1 for array in arrays)
        return sorted(held)

    for slot in range(3):
        arena.fill(slot, 0, 2)
        assert values(slot) == [0.0]
        for layer in STATE.layers:
            for array in arena.states(layer, slot, 1).values():
                array[:] = next(number)
        arena.settle(slot, [Row(2, [0] * slot, 8)])
    assert (values(0), values(2)) == ([1, 2, 3, 4], [9, 10, 11, 12])
    arena.transfer(StoreState(1, 1))
    arena.transfer(Swap(0, 2, 4))
    arena.transfer(Move(1, 2, 3))
    assert (values(0), values(1), values(2)) == ([9, 10, 11, 12], [5, 6, 7, 8], [5, 6, 7, 8])
    for slot, position in ((0, 4), (1, 3), (2, 3)):
        with pytest.raises(InferenceFailed, match=f"position 5 .* as of {position}"):
            arena.fill(slot, 5, 1)
        arena.fill(slot, position, 1)
        with pytest.raises(InferenceFailed, match="lost in a step that failed"):
            arena.fill(slot, position, 1)
    arena.fill(1, 0, 1)
    assert (values(0), values(1)) == ([9, 10, 11, 12], [0])
    arena.transfer(LoadState(1, 0, 3))
    arena.fill(0, 3, 1)
    assert values(0) == [5, 6, 7, 8]
