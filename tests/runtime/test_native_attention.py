"""The native attention beside ONNX Runtime's own, over models of one operator."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.native import (
    VARIANTS,
    assert_near,
    both,
    model,
    needs_kernels,
    needs_matrix_unit,
    session,
)

pytestmark = needs_kernels

HEADS = st.sampled_from([(1, 1), (4, 2), (9, 3), (6, 1), (16, 2)])
SIZES = st.sampled_from([8, 16, 32, 64, 80, 96])
Inputs = dict[str, NDArray[Any] | None]


def inputs(
    rng: np.random.Generator,
    heads: tuple[int, int],
    size: int,
    past: list[int],
    *,
    tokens: int,
    capacity: int,
    packed: bool = True,
    rotary: int = 0,
    positions: bool = False,
    sinks: bool = False,
) -> Inputs:
    """Return what the operator is given, in its order; ``past`` of each row."""
    batch, (q, kv) = len(past), heads

    def floats(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32)

    total = np.asarray(past, np.int32) + tokens
    given: Inputs = {
        "query": floats(batch, tokens, (q + 2 * kv if packed else q) * size),
        "key": None if packed else floats(batch, tokens, kv * size),
        "value": None if packed else floats(batch, tokens, kv * size),
        "past_key": floats(batch, kv, capacity, size),
        "past_value": floats(batch, kv, capacity, size),
        "seqlens_k": total - 1,
        "total": np.asarray(total.max(), np.int32),
    }
    if rotary:
        angles = floats(capacity + 70, rotary // 2)
        given |= {"cos": np.cos(angles), "sin": np.sin(angles)}
        if positions:
            start = np.asarray(past)[:, None] + 60
            given["positions"] = (start + np.arange(tokens)).astype(np.int64)
    if sinks:
        absent = ("cos", "sin", "positions", "attention_bias")
        given |= {name: given.get(name) for name in absent}
        given["sinks"] = floats(q) * 4
    return given


def operator(given: Inputs, heads: tuple[int, int], **attributes: Any) -> Any:
    attributes |= {"num_heads": heads[0], "kv_num_heads": heads[1]}
    return model("GroupQueryAttention", given, {}, attributes, outputs=3, keep_all=True)


def present(given: Inputs) -> dict[str, NDArray[Any]]:
    return {name: array for name, array in given.items() if array is not None}


def rounded(x: NDArray[Any]) -> NDArray[np.float64]:
    """Return what a bfloat16 holds of numbers."""
    return x.astype(ml_dtypes.bfloat16).astype(np.float64)


def compare(given: Inputs, heads: tuple[int, int], **attributes: Any) -> None:
    """Compare outputs, and the cache as far as it is filled."""
    feeds = present(given)
    found, wanted = both(operator(given, heads, **attributes), feeds)
    for row, last in enumerate(feeds["seqlens_k"]):
        cut = np.s_[row, :, : last + 1]
        # An error of a score counts in proportion to its size, which softmax's exponent is.
        assert_near(
            [found[0][row], found[1][cut], found[2][cut]],
            [wanted[0][row], wanted[1][cut], wanted[2][cut]],
            tolerance=2e-5,
        )


@settings(max_examples=60, deadline=None)
@given(
    heads=HEADS,
    size=SIZES,
    past=st.lists(st.integers(0, 300), min_size=1, max_size=5),
    packed=st.booleans(),
    rotary=st.sampled_from([0.0, 0.5, 1.0]),
    positions=st.booleans(),
    sinks=st.booleans(),
    window=st.sampled_from([-1, 1, 5, 64, 200]),
    softcap=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_token_of_each_row(
    *,
    heads: tuple[int, int],
    size: int,
    past: list[int],
    packed: bool,
    rotary: float,
    positions: bool,
    sinks: bool,
    window: int,
    softcap: float,
    seed: int,
) -> None:
    assume(not rotary or size % 16 == 0)  # ONNX Runtime turns no others
    rng = np.random.default_rng(seed)
    turned = int(rotary * size) // 16 * 16 if rotary < 1 else size
    given = inputs(
        rng,
        heads,
        size,
        past,
        tokens=1,
        capacity=304,
        packed=packed,
        rotary=turned,
        positions=positions,
        sinks=sinks,
    )
    compare(
        given,
        heads,
        do_rotary=int(turned > 0),
        local_window_size=window,
        softcap=softcap,
    )


@settings(max_examples=40, deadline=None)
@given(
    heads=HEADS,
    size=SIZES,
    past=st.integers(0, 200),
    tokens=st.integers(2, 150),
    packed=st.booleans(),
    rotary=st.booleans(),
    positions=st.booleans(),
    sinks=st.booleans(),
    window=st.sampled_from([-1, 1, 5, 64, 200]),
    softcap=st.sampled_from([0.0, 3.0]),
    scale=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_many_tokens_of_one_row(
    *,
    heads: tuple[int, int],
    size: int,
    past: int,
    tokens: int,
    packed: bool,
    rotary: bool,
    positions: bool,
    sinks: bool,
    window: int,
    softcap: float,
    scale: float,
    seed: int,
) -> None:
    assume(not rotary or size % 16 == 0)
    rng = np.random.default_rng(seed)
    turned = size if rotary else 0
    given = inputs(
        rng,
        heads,
        size,
        [past],
        tokens=tokens,
        capacity=360,
        packed=packed,
        rotary=turned,
        positions=positions,
        sinks=sinks,
    )
    compare(
        given,
        heads,
        do_rotary=int(rotary),
        local_window_size=window,
        softcap=softcap,
        scale=scale,
    )


@needs_matrix_unit
@pytest.mark.parametrize(("tokens", "past"), [(24, 0), (70, 700), (256, 3), (300, 64)])
@pytest.mark.parametrize(("size", "sinks"), [(40, True), (64, False), (128, False)])
def test_a_prompt_on_the_matrix_unit(tokens: int, past: int, size: int, sinks: bool) -> None:
    """Beside exact attention of queries, keys and values rounded as the unit takes them."""
    given = inputs(
        np.random.default_rng(tokens),
        (9, 3),
        size,
        [past],
        tokens=tokens,
        capacity=past + tokens,
        sinks=sinks,
    )
    feeds = present(given)
    unit = session(operator(given, (9, 3)), native=True, variant="amx")
    y, keys, values = (each[0].astype(np.float64) for each in unit.run(None, feeds))
    scale = np.float32(1 / np.sqrt(size))
    packed = feeds["query"][0].reshape(tokens, 15, size)
    queries = rounded(packed[:, :9].swapaxes(0, 1) * scale)
    found = y.reshape(tokens, 9, size).swapaxes(0, 1)
    seen = np.arange(past + tokens) <= past + np.arange(tokens)[:, None]
    for head in range(9):
        scores = queries[head] @ rounded(keys[head // 3]).T
        most = scores.max(1, keepdims=True)
        weights = np.where(seen, np.exp(scores - most), 0)
        sink = np.exp(feeds["sinks"][head] - most) if sinks else 0
        weights /= weights.sum(1, keepdims=True) + sink
        seen_values = rounded(values[head // 3])
        # Weights are cut off after the bits of a bfloat16, and so is what they are divided by.
        worst = 2.0**-7 * (weights @ np.abs(seen_values))
        assert np.all(np.abs(found[head] - weights @ seen_values) <= worst + 1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_is_the_same_in_any_company(variant: str) -> None:
    rng = np.random.default_rng(3)
    heads, past = (9, 3), [0, 5, 127, 128, 129, 300, 411]
    given = inputs(rng, heads, 64, past, tokens=1, capacity=420, rotary=64, sinks=True)
    feeds = present(given)
    native = session(operator(given, heads, do_rotary=1), native=True, variant=variant)
    together = native.run(None, feeds)[0]
    for row in range(len(past)):
        alone = {
            name: array if name in ("cos", "sin", "sinks") else array[row : row + 1]
            for name, array in feeds.items()
            if name != "total"
        }
        alone["total"] = np.asarray(alone["seqlens_k"][0] + 1, np.int32)
        np.testing.assert_array_equal(native.run(None, alone)[0][0], together[row])


def test_scores_far_apart() -> None:
    rng = np.random.default_rng(5)
    for tokens, past in ((1, [40]), (9, [40])):
        given = inputs(rng, (4, 2), 32, past, tokens=tokens, capacity=64)
        assert given["query"] is not None
        given["query"] *= 100
        compare(given, (4, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seqlens_k": np.asarray([-1], np.int32)}, "seqlens_k does not fit the cache"),
        ({"seqlens_k": np.asarray([64], np.int32)}, "seqlens_k does not fit the cache"),
        ({"positions": np.asarray([[4000]], np.int64)}, "no angle"),
        ({"positions": np.asarray([[-1]], np.int64)}, "no angle"),
    ],
)
def test_numbers_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    given = inputs(
        np.random.default_rng(7), (4, 2), 32, [9], tokens=1, capacity=64, rotary=32, positions=True
    )
    native = session(operator(given, (4, 2), do_rotary=1), native=True)
    with pytest.raises(Exception, match=message):
        native.run(None, present(given) | change)


def test_sinks_that_are_not_one_of_each_head_are_refused() -> None:
    given = inputs(np.random.default_rng(8), (4, 2), 32, [9], tokens=1, capacity=64, sinks=True)
    native = session(operator(given, (4, 2)), native=True)
    with pytest.raises(Exception, match="head_sink is not one of each head"):
        native.run(None, present(given) | {"sinks": np.zeros(3, np.float32)})


@pytest.mark.parametrize(
    "attributes", [{"rotary_interleaved": 1, "do_rotary": 1}, {"smooth_softmax": 1}]
)
def test_what_it_does_not_do_is_refused(attributes: dict[str, int]) -> None:
    given = inputs(np.random.default_rng(9), (4, 2), 32, [9], tokens=1, capacity=64, rotary=32)
    with pytest.raises(Exception, match=r"GroupQueryAttention: .* is given"):
        session(operator(given, (4, 2), **attributes), native=True)
