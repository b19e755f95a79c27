"""Attention on caches of 16 bits, beside the same on caches of 32, and artifacts that keep such."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.makers import MakeArtifact, MakeFamily, MakeLlama
from support.native import MS, VARIANTS, model, natively, needs_kernels, needs_matrix_unit, session
from support.running import forced_logits, open_cpu, relative_error

from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import host_cache

pytestmark = needs_kernels

HALF = np.float16
LARGEST = np.finfo(HALF).max
Inputs = dict[str, NDArray[Any]]


def inputs(
    rng: np.random.Generator,
    heads: tuple[int, int],
    size: int,
    past: list[int],
    *,
    tokens: int,
    rotary: bool,
    sinks: bool = False,
) -> Inputs:
    """Return what the operator is given, of numbers that a Half holds as they are."""
    batch, (q, kv) = len(past), heads

    def halves(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32).astype(HALF).astype(np.float32)

    total = np.asarray(past, np.int32) + tokens
    capacity = int(total.max()) + 3
    given: Inputs = {
        "qkv": halves(batch, tokens, (q + 2 * kv) * size),
        "past_key": halves(batch, kv, capacity, size),
        "past_value": halves(batch, kv, capacity, size),
        "seqlens_k": total - 1,
        "total": np.asarray(total.max(), np.int32),
    }
    if rotary:
        angles = rng.standard_normal((capacity, size // 2), np.float32)
        given |= {"cos": np.cos(angles), "sin": np.sin(angles)}
    if sinks:
        given["sinks"] = halves(q) * 4
    return given


def operator(given: Inputs, heads: tuple[int, int], domain: str, **attributes: Any) -> Any:
    names = ("qkv", "key", "value", "past_key", "past_value", "seqlens_k", "total")
    names += ("cos", "sin", "positions", "slots", "sinks")
    feeds = {name: given.get(name) for name in names}
    attributes |= {"num_heads": heads[0], "kv_num_heads": heads[1]}
    return model(
        "GroupQueryAttention", feeds, {}, attributes, outputs=3, keep_all=True, domain=domain
    )


def halved(given: Inputs) -> Inputs:
    return given | {name: given[name].astype(HALF) for name in ("past_key", "past_value")}


@settings(max_examples=60, deadline=None)
@given(
    heads=st.sampled_from([(1, 1), (4, 2), (9, 3), (16, 2)]),
    size=st.sampled_from([8, 16, 40, 64, 80]),
    past=st.lists(st.integers(0, 300), min_size=1, max_size=4),
    many=st.integers(2, 100),
    rotary=st.booleans(),
    sinks=st.booleans(),
    window=st.sampled_from([-1, 5, 64]),
    softcap=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_is_the_same_attention(
    *,
    heads: tuple[int, int],
    size: int,
    past: list[int],
    many: int,
    rotary: bool,
    sinks: bool,
    window: int,
    softcap: float,
    seed: int,
) -> None:
    """Of numbers that a Half holds, the same bits, but for what rotation makes of keys."""
    tokens = many if len(past) == 1 else 1
    given = inputs(
        np.random.default_rng(seed), heads, size, past, tokens=tokens, rotary=rotary, sinks=sinks
    )
    how = {"do_rotary": int(rotary), "local_window_size": window, "softcap": softcap}
    wanted = natively(operator(given, heads, MS, **how), given)
    found = natively(operator(halved(given), heads, "rbee", **how), halved(given))
    for f, w in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_array_equal(f, w.astype(HALF))
    if rotary:
        np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=1e-2)
    else:
        np.testing.assert_array_equal(found[0], wanted[0])


@needs_matrix_unit
@pytest.mark.parametrize("size", [40, 64, 128])
def test_it_is_the_same_attention_on_the_matrix_unit(size: int) -> None:
    given = inputs(np.random.default_rng(size), (9, 3), size, [70], tokens=90, rotary=False)
    wanted = session(operator(given, (9, 3), MS), native=True, variant="amx").run(None, given)
    half = session(operator(halved(given), (9, 3), "rbee"), native=True, variant="amx")
    for f, w in zip(half.run(None, halved(given)), wanted, strict=True):
        np.testing.assert_array_equal(f, w.astype(f.dtype))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [8, 16, 24])
def test_numbers_too_large_for_a_half(variant: str, size: int) -> None:
    given = inputs(np.random.default_rng(1), (1, 1), size, [2], tokens=1, rotary=False)
    key = slice(size, 2 * size)
    given["qkv"][0, 0, key] = np.resize([1e6, -1e6, 65520, 2.0**-25, np.nan, -0.0], size)
    half = session(operator(halved(given), (1, 1), "rbee"), native=True, variant=variant)
    kept = half.run(None, halved(given))[1][0, 0, 2]
    # The nearest even of 0 and 2**-24, its smallest number, is 0.
    wanted = np.resize(np.asarray([LARGEST, -LARGEST, LARGEST, 0.0, np.nan, -0.0], HALF), size)
    np.testing.assert_array_equal(kept, wanted)
    np.testing.assert_array_equal(np.signbit(kept), np.signbit(wanted))


@settings(max_examples=60, deadline=None)
@given(
    heads=st.sampled_from([(1, 1), (4, 2), (9, 3)]),
    size=st.sampled_from([8, 40, 64]),
    past=st.lists(st.integers(0, 300), min_size=1, max_size=4),
    counts=st.lists(st.integers(1, 6), min_size=4, max_size=4),
    order=st.randoms(use_true_random=False),
    rotary=st.booleans(),
    window=st.sampled_from([-1, 5, 64]),
    variant=st.sampled_from(VARIANTS),
    seed=st.integers(0, 2**32 - 1),
)
def test_tokens_that_share_a_slot(
    *,
    heads: tuple[int, int],
    size: int,
    past: list[int],
    counts: list[int],
    order: random.Random,
    rotary: bool,
    window: int,
    variant: str,
    seed: int,
) -> None:
    """Some tokens of each slot as rows of one step, in any order: the bits of one step for each."""
    rng = np.random.default_rng(seed)
    capacity = max(past) + 8
    placed = [(slot, at + n) for slot, at in enumerate(past) for n in range(counts[slot])]
    past_of_each = [capacity - 4] * len(placed)
    given = halved(inputs(rng, heads, size, past_of_each, tokens=1, rotary=rotary, sinks=True))
    how = {"do_rotary": int(rotary), "local_window_size": window}
    cache = {
        name: rng.standard_normal((len(past), heads[1], capacity, size)).astype(HALF)
        for name in ("past_key", "past_value")
    }

    def run(rows: list[int], cache: Inputs) -> list[NDArray[Any]]:
        slots, positions = np.asarray([placed[row] for row in rows], np.int32).T.copy()
        feeds = {
            "qkv": given["qkv"][rows],
            **cache,
            "seqlens_k": positions,
            "total": np.asarray(positions.max() + 1, np.int32),
            **{name: given.get(name) for name in ("cos", "sin", "positions")},
            "slots": slots,
            "sinks": given["sinks"],
        }
        made = session(operator(feeds, heads, "rbee", **how), native=True, variant=variant)
        there = {name: array for name, array in feeds.items() if array is not None}
        return list(made.run(None, there))

    rows = list(range(len(placed)))
    order.shuffle(rows)
    together, *written = run(rows, cache)
    alone: list[NDArray[Any]] = []
    for row in range(len(placed)):
        y, key, value = run([row], cache)
        cache = {"past_key": key, "past_value": value}
        alone.append(y)
    np.testing.assert_array_equal(together, np.concatenate([alone[row] for row in rows]))
    for array, wanted in zip(written, cache.values(), strict=True):
        np.testing.assert_array_equal(array, wanted)


def without_half_cache(artifact: Path, to: Path) -> Path:
    """Return the artifact as exporters of format version 3 wrote it."""
    to.mkdir()
    for file in artifact.iterdir():
        (to / file.name).hardlink_to(file)
    manifest = json.loads((artifact / "artifact.json").read_text())
    manifest["files"] = [f for f in manifest["files"] if f["role"] != "half_cache_graph"]
    manifest["format_version"] = 3
    (to / "artifact.json").unlink()
    (to / "artifact.json").write_text(json.dumps(manifest))
    return to


@pytest.mark.parametrize(
    "family", ["llama", "gemma2", "mistral", "qwen3", "phi3-longrope", "gpt-oss"]
)
def test_an_artifact_with_a_cache_of_16_bits(
    family: str, make_family: MakeFamily, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    """It takes half the memory of the same weights without, and predicts the same."""
    artifact = make_artifact(make_family(family), "int8")
    older = without_half_cache(artifact, tmp_path / "older")
    ids = np.random.default_rng(3).integers(3, 384, 90).tolist()
    half, whole = open_cpu(artifact), open_cpu(older)
    found, wanted = forced_logits(half, ids, 60), forced_logits(whole, ids, 60)
    assert half.cache_bytes * 2 == whole.cache_bytes
    # Where activations are rounded to a byte, numbers a little off tip some of them.
    assert relative_error(found, wanted) < 5e-2


def test_without_the_kernels_it_keeps_32_bits(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Artifact.open(tiny_artifact)
    assert host_cache(artifact).dtype == "float16"
    monkeypatch.setenv("RBEE_KERNELS", "onnxruntime")
    assert host_cache(artifact) == artifact.manifest.cache
    older = without_half_cache(tiny_artifact, tmp_path / "older")
    assert open_cpu(tiny_artifact).cache_bytes == open_cpu(older).cache_bytes


def test_a_graph_that_the_kernels_refuse(
    tiny_artifact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_artifact, broken)
    graph = Artifact.open(broken).half_cache_graph
    assert graph is not None
    graph.write_bytes(b"\0" * graph.stat().st_size)
    backend = open_cpu(broken)
    assert "Keeping the cache in 32 bits: " in caplog.text
    assert "Running on ONNX Runtime's own kernels" not in caplog.text
    older = without_half_cache(tiny_artifact, tmp_path / "older")
    assert backend.cache_bytes == open_cpu(older).cache_bytes


@pytest.mark.parametrize(("precision", "half"), [("int4", True), ("int8", True), ("fp32", False)])
def test_what_has_such_a_graph(
    precision: str, half: bool, make_llama: MakeLlama, make_artifact: MakeArtifact
) -> None:
    artifact = Artifact.open(make_artifact(make_llama(), precision))
    assert (artifact.half_cache_graph is not None) == half
    assert artifact.manifest.cache.dtype == "float32"
