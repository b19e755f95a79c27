"""Attention on caches of 8 bits, beside NumPy, and artifacts that are served with such."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.collecting import submit
from support.makers import MakeArtifact, MakeFamily, MakeLlama
from support.native import (
    VARIANTS,
    assert_near,
    model,
    natively,
    needs_kernels,
    needs_matrix_unit,
    session,
)
from support.running import forced_logits, open_cpu, relative_error

from rbee_runtime import kernels
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import host_cache, open_backend
from rbee_runtime.engine import Engine
from rbee_runtime.errors import DeviceError, InvalidSetting
from rbee_runtime.request import GREEDY, Request
from rbee_runtime.step import PREFILL_CHUNK
from rbee_runtime.transfer import BLOCK

pytestmark = needs_kernels

HALF = np.float16
PART = PANEL = 32
Floats = NDArray[np.float32]
Inputs = dict[str, NDArray[Any]]


def rounded(x: Floats, *, scales_in: type = np.float32) -> tuple[NDArray[Any], Floats]:
    """Return integers and scales of every 32 numbers along the last axis."""
    parts = x.reshape(*x.shape[:-1], -1, PART)
    scales = (np.abs(parts).max(-1) / np.float32(127)).astype(scales_in).astype(np.float32)
    factors = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    return np.rint(np.clip(parts * factors[..., None], -127, 127)).astype(np.int8), scales


def as_rounded(x: Floats) -> Floats:
    integers, scales = rounded(x)
    return (integers * scales[..., None]).reshape(x.shape)


def packed(x: Floats, *, keys: bool) -> NDArray[np.float16]:
    """Return positions ``[slots, heads, positions, size]`` as a cache of 8 bits holds them."""
    slots, heads, positions, size = x.shape
    integers, scales = rounded(x, scales_in=HALF)
    # [slots, heads, panel, part, position, 32]
    integers = integers.reshape(slots, heads, -1, PANEL, size // PART, PART).swapaxes(3, 4)
    scales = scales.reshape(slots, heads, -1, PANEL, size // PART).swapaxes(3, 4)
    held = integers.view(np.uint8)
    if keys:
        held = (held ^ 0x80).reshape(*held.shape[:4], 2, 16, PART // 4, 4).swapaxes(5, 6)
    else:
        held = held.reshape(*held.shape[:4], PANEL // 4, 4, PART).swapaxes(5, 6)
    held = held.reshape(*scales.shape[:4], PANEL * PART)
    scale_bytes = np.ascontiguousarray(scales.astype(HALF)).view(np.uint8)
    both = np.concatenate([scale_bytes, held], axis=-1)
    return both.reshape(slots, heads, positions // PANEL * 17, 2 * size).view(HALF)


def unpacked(cache: NDArray[np.float16], *, keys: bool) -> Floats:
    slots, heads, rows, size = cache.shape
    parts = cache.reshape(slots, heads, rows // 17, size // PART, 17 * PART)
    scales = parts[..., :PANEL].astype(np.float32)
    held = np.ascontiguousarray(parts[..., PANEL:]).view(np.uint8)
    if keys:
        held = held.reshape(*held.shape[:4], 2, PART // 4, 16, 4).swapaxes(5, 6) ^ 0x80
    else:
        held = held.reshape(*held.shape[:4], PANEL // 4, PART, 4).swapaxes(5, 6)
    integers = np.ascontiguousarray(held).reshape(*scales.shape, PART).view(np.int8)
    numbers = integers * scales[..., None]
    return numbers.swapaxes(3, 4).reshape(slots, heads, rows // 17 * PANEL, size)


def inputs(
    rng: np.random.Generator,
    heads: tuple[int, int],
    size: int,
    past: Sequence[int],
    *,
    tokens: int,
    rotary: bool = False,
    sinks: bool = False,
) -> Inputs:
    """Return what the operator is given, of numbers some of which are far larger than others."""
    batch, (q, kv) = len(past), heads

    def floats(*shape: int) -> Floats:
        factors = rng.choice(np.asarray([0.1, 1.0, 3.0], np.float32), shape[-1:])
        return rng.standard_normal(shape, np.float32) * factors

    total = np.asarray(past, np.int32) + tokens
    capacity = -(-int(total.max()) // PANEL) * PANEL
    given: Inputs = {
        "qkv": floats(batch, tokens, (q + 2 * kv) * size),
        "past_key": packed(floats(batch, kv, capacity, size), keys=True),
        "past_value": packed(floats(batch, kv, capacity, size), keys=False),
        "seqlens_k": total - 1,
        "total": np.asarray(total.max(), np.int32),
    }
    if rotary:
        angles = floats(capacity, size // 2)
        given |= {"cos": np.cos(angles), "sin": np.sin(angles)}
    if sinks:
        given["sinks"] = floats(q)
    return given


def operator(given: Inputs, heads: tuple[int, int], **attributes: Any) -> Any:
    names = ("qkv", "key", "value", "past_key", "past_value", "seqlens_k", "total")
    names += ("cos", "sin", "positions", "slots", "sinks")
    attributes |= {"num_heads": heads[0], "kv_num_heads": heads[1]}
    feeds = {name: given.get(name) for name in names}
    return model(
        "GroupQueryAttention", feeds, {}, attributes, outputs=3, keep_all=True, domain="rbee"
    )


def turned(x: Floats, given: Inputs, first: int) -> Floats:
    """Return rows ``[tokens, heads, size]`` turned by their positions."""
    if "cos" not in given:
        return x
    at = np.s_[first : first + len(x), None]
    cos, sin = given["cos"][at], given["sin"][at]
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def expected(
    given: Inputs, held: Sequence[Floats], heads: tuple[int, int], *, window: int, cap: float
) -> NDArray[np.float64]:
    """Attend with queries rounded as the kernels round them, in float64."""
    batch, tokens, _ = given["qkv"].shape
    keys, values = held
    (q, kv), size = heads, keys.shape[-1]
    y = np.zeros((batch, tokens, q, size))
    for row in range(batch):
        first = int(given["seqlens_k"][row]) + 1 - tokens
        queries = given["qkv"][row].reshape(tokens, -1, size)[:, :q]
        scaled = turned(queries, given, first) * np.float32(size**-0.5)
        queries = as_rounded(scaled.astype(np.float32)).astype(np.float64)
        for token in range(tokens):
            seen = np.s_[
                max(0, first + token + 1 - window) if window > 0 else 0 : first + token + 1
            ]
            for head in range(q):
                of = head // (q // kv)
                scores = keys[row, of, seen] @ queries[token, head]
                if cap:
                    scores = cap * np.tanh(scores / cap)
                sink = given["sinks"][head] if "sinks" in given else -np.inf
                most = max(scores.max(), sink)
                weights = np.exp(scores - most)
                y[row, token, head] = weights @ values[row, of, seen]
                y[row, token, head] /= weights.sum() + np.exp(sink - most)
    return y.reshape(batch, tokens, -1)


@settings(max_examples=40, deadline=None)
@given(
    heads=st.sampled_from([(1, 1), (4, 2), (9, 3), (16, 2)]),
    size=st.sampled_from([32, 64, 96]),
    past=st.lists(st.integers(0, 300), min_size=1, max_size=3),
    many=st.integers(2, 80),
    rotary=st.booleans(),
    sinks=st.booleans(),
    window=st.sampled_from([-1, 5, 64]),
    cap=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_is_attention_to_what_the_cache_holds(
    *,
    heads: tuple[int, int],
    size: int,
    past: list[int],
    many: int,
    rotary: bool,
    sinks: bool,
    window: int,
    cap: float,
    seed: int,
) -> None:
    """In every variant, the same bits; and new positions are held to half a step of theirs."""
    tokens = many if len(past) == 1 else 1
    rng = np.random.default_rng(seed)
    given = inputs(rng, heads, size, past, tokens=tokens, rotary=rotary, sinks=sinks)
    made = operator(given, heads, do_rotary=int(rotary), local_window_size=window, softcap=cap)
    with kernels.in_bytes():
        y, *presents = natively(made, given)
    names = ("past_key", "past_value")
    held = [unpacked(p, keys=name == "past_key") for name, p in zip(names, presents, strict=True)]
    # Weights are rounded, too, and a turned query may fall to either side where it is.
    assert_near([y], [expected(given, held, heads, window=window, cap=cap)], tolerance=3e-2)

    (q, kv), now = heads, given["qkv"].reshape(len(past), tokens, -1, size)
    parts = now[:, :, q : q + kv], now[:, :, q + kv :]
    for name, found, part in zip(names, held, parts, strict=True):
        wanted = unpacked(given[name], keys=name == "past_key")
        for row, at in enumerate(past):
            new = turned(part[row], given, at) if name == "past_key" else part[row]
            steps = np.abs(new.reshape(tokens, kv, -1, PART)).max(-1, keepdims=True) / 127
            off = np.abs(found[row, :, at : at + tokens].swapaxes(0, 1) - new)
            assert (off.reshape(tokens, kv, -1, PART) <= 0.51 * steps).all()
            wanted[row, :, at : at + tokens] = found[row, :, at : at + tokens]
        np.testing.assert_array_equal(found, wanted)


@needs_matrix_unit
@pytest.mark.parametrize("size", [32, 64, 96])
def test_it_is_near_on_the_matrix_unit(size: int) -> None:
    given = inputs(np.random.default_rng(size), (9, 3), size, [70], tokens=90)
    made = operator(given, (9, 3))
    with kernels.in_bytes():
        wanted = natively(made, given)
        y, *presents = session(made, native=True, variant="amx").run(None, given)
    assert_near([y], wanted[:1], tolerance=3e-2)
    for found, there in zip(presents, wanted[1:], strict=True):
        np.testing.assert_array_equal(found.view(np.uint16), there.view(np.uint16))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("at", [1, 2], ids=["key", "value"])
def test_what_is_no_number_is_not_lost(variant: str, at: int) -> None:
    """Not to the token that has it; to one in its place nothing is left of it."""
    size, past = 64, 40
    given = inputs(np.random.default_rng(at), (1, 1), size, [past], tokens=1)
    spoilt = given | {"qkv": given["qkv"].copy()}
    spoilt["qkv"][0, 0, at * size + 3] = [np.nan, np.inf][at - 1]
    with kernels.in_bytes():
        opened = session(operator(given, (1, 1)), native=True, variant=variant)
    y, key, value = opened.run(None, spoilt)
    assert np.isnan(y).all()
    # An earlier position is filled anew while that one is beyond the end.
    earlier = given | {"seqlens_k": np.asarray([past - 5], np.int32)}
    found = opened.run(None, earlier | {"past_key": key, "past_value": value})
    np.testing.assert_array_equal(found[0], opened.run(None, earlier)[0])


@pytest.mark.parametrize("tokens", [1, 3])
def test_tokens_that_share_a_slot(tokens: int) -> None:
    """As rows of one step they get the bits of one step for each."""
    size, heads, past = 64, (9, 3), [45, 130]
    rng = np.random.default_rng(tokens)
    places = [(slot, at + n) for slot, at in enumerate(past) for n in range(tokens)]
    given = inputs(rng, heads, size, past, tokens=tokens)
    rows = given["qkv"].reshape(len(places), 1, -1)
    cache = {name: given[name] for name in ("past_key", "past_value")}

    def run(chosen: list[int], cache: Inputs) -> list[NDArray[Any]]:
        slots, positions = np.asarray([places[row] for row in chosen], np.int32).T.copy()
        feeds = {"qkv": rows[chosen], **cache, "seqlens_k": positions, "slots": slots}
        feeds["total"] = np.asarray(positions.max() + 1, np.int32)
        with kernels.in_bytes():
            return natively(operator(feeds, heads), feeds)

    order = rng.permutation(len(places)).tolist()
    together, *written = run(order, cache)
    alone = []
    for row in range(len(places)):
        y, key, value = run([row], cache)
        cache = {"past_key": key, "past_value": value}
        alone.append(y)
    np.testing.assert_array_equal(together, np.concatenate([alone[row] for row in order]))
    for found, there in zip(written, cache.values(), strict=True):
        np.testing.assert_array_equal(found.view(np.uint16), there.view(np.uint16))


@pytest.mark.parametrize(("size", "rows"), [(48, 17), (64, 18), (544, 17)])
def test_what_holds_no_such_cache(size: int, rows: int) -> None:
    given = inputs(np.random.default_rng(1), (1, 1), 64, [3], tokens=1)
    past = np.zeros((1, 1, rows, size), HALF)
    given |= {"past_key": past, "past_value": past, "qkv": np.zeros((1, 1, 3 * size), np.float32)}
    with kernels.in_bytes():
        opened = session(operator(given, (1, 1)), native=True)
    with pytest.raises(Exception, match="this is no cache of 8 bits"):
        opened.run(None, given)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_an_artifact_with_a_cache_of_8_bits(
    family: str, make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    """It takes 17 bytes where 16 bits take 32, and predicts much the same."""
    artifact = make_artifact(make_family(family, head_dim=32), "int8")
    ids = np.random.default_rng(3).integers(3, 384, 150).tolist()
    # In so small chunks a window's room is full before the end, and begins anew.
    half, eight = (open_cpu(artifact, chunk=32, cache_type=kind) for kind in (None, "int8"))
    assert eight.cache_bytes / half.cache_bytes == pytest.approx(17 / 32, rel=0.02)
    found, wanted = forced_logits(eight, ids, 32), forced_logits(half, ids, 32)
    # Weights like these, far wider than a model's, make much of little.
    assert relative_error(found, wanted) < 0.15


def test_it_serves_with_a_cache_of_8_bits(
    make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    """A known beginning is found again, slots are exchanged, and memory counts to the byte."""
    path = make_artifact(make_family("llama", head_dim=32), "int8")
    geometry = host_cache(Artifact.open(path), "int8")
    ids = np.random.default_rng(5).integers(3, 384, 120).tolist()
    slot = geometry.slot_bytes(320, PREFILL_CHUNK)
    block = geometry.block_bytes(BLOCK)
    assert block == BLOCK * geometry.bytes_per_token
    budget = 3 * slot + 20 * block
    how: dict[str, Any] = {"slots": 3, "context_length": 320, "memory_budget": budget}
    with Engine.load(path, backend="cpu", cache_type="int8", **how) as engine:
        memory = engine.memory()
        assert memory.cache_reserved == budget
        alone = [submit(engine, Request(f"{n}", ids[n:], 30, GREEDY)).finished() for n in range(3)]
        assert [end.reused_tokens for _, end in alone] == [0, 0, 0]
        several = [submit(engine, Request(f"{n}", ids[n:], 30, GREEDY)) for n in range(3)]
        for (text, _), one in zip(alone, several, strict=True):
            again, end = one.finished()
            assert end.reused_tokens == 3 * BLOCK
            assert again == text
        assert memory.cache < engine.memory().cache <= budget


def test_where_there_can_be_none(
    make_llama: MakeLlama,
    make_artifact: MakeArtifact,
    tiny_artifact: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line says why, before anything is read."""
    wide = make_artifact(make_llama(head_dim=32), "int8")

    def refused(artifact: Path, why: str) -> None:
        with pytest.raises(DeviceError, match=f"the cache cannot be kept in int8: {why}"):
            open_backend(Artifact.open(artifact), cache_type="int8")

    refused(tiny_artifact, "heads must have a multiple of 32 numbers, up to 512, not 16; leave")
    refused(make_artifact(make_llama(), "fp32"), "its graph at fp32 keeps it in float32; .* int4")
    refused(make_artifact(make_llama(), "fp16"), "only on the CPU, and this artifact is .* cuda")
    monkeypatch.setenv("RBEE_KERNELS", "onnxruntime")
    refused(wide, "only the native kernels can: RBEE_KERNELS=onnxruntime; leave --cache-type out")
    with pytest.raises(InvalidSetting, match="cache type 'int4' is not known; use int8"):
        Engine.load(wide, cache_type="int4")  # type: ignore[arg-type]
