"""The causal attention of packed texts: the native kernel, and the function it takes the place of,
beside a softmax in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.native import assert_near, both, model, natively, needs_kernels, needs_matrix_unit
from support.native import session as opened

from rbee_export.checkpoint.rope import Rope
from rbee_export.dialect.ort import OPSET
from rbee_export.dialect.packed_causal_attention import packed_causal_attention

POSITIONS = 400
EPSILON = 1e-5
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """What a model asks of its attention."""

    heads: int = 4
    kv_heads: int = 2
    size: int = 32
    turned: int = 32
    window: int = -1
    cap: float = 0.0
    scale: float = 0.2
    norms: str = "none"

    @property
    def attributes(self) -> dict[str, int | float]:
        told: dict[str, int | float] = {
            "num_heads": self.heads,
            "kv_num_heads": self.kv_heads,
            "local_window_size": self.window,
            "scale": self.scale,
            "softcap": self.cap,
        }
        return told if self.norms == "none" else {**told, "epsilon": EPSILON}

    @property
    def constants(self) -> dict[str, Floats]:
        cos, sin = Rope(10000.0, self.turned).tables(POSITIONS)
        found = {"cos": cos, "sin": sin}
        draw = np.random.default_rng(self.size)
        for name, heads in (("q_norm", self.heads), ("k_norm", self.kv_heads)):
            width = self.size * (heads if self.norms == "whole" else 1)
            if self.norms != "none":
                found[name] = draw.uniform(0.5, 1.5, width).astype(np.float32)
        return found

    def operator(self, feeds: Mapping[str, NDArray[Any]]) -> ir.Model:
        function = packed_causal_attention(OPSET, ir.DataType.FLOAT, norms=self.norms != "none")
        return model(
            "PackedCausalAttention", feeds, self.constants, self.attributes, function=function
        )

    def packed(self, rng: np.random.Generator, lengths: list[int]) -> dict[str, NDArray[Any]]:
        width = (self.heads + 2 * self.kv_heads) * self.size
        return {
            "qkv": rng.standard_normal((1, sum(lengths), width), np.float32),
            "cu_seqlens": np.cumsum([0, *lengths], dtype=np.int32),
        }

    def attended(
        self, qkv: Floats, ends: NDArray[np.int32], kept: Any = np.float32
    ) -> NDArray[np.float64]:
        """Return ``[1, tokens, width]``, of queries, keys and values as ``kept`` holds them."""
        widths = self.heads * self.size, (self.heads + self.kv_heads) * self.size
        q, k, v = (
            x.astype(np.float64).reshape(len(x), -1, self.size)
            for x in np.split(qkv[0], widths, axis=-1)
        )
        told = self.constants
        if self.norms != "none":
            q, k = self._normed(q, told["q_norm"]), self._normed(k, told["k_norm"])
        y = np.empty_like(q)
        for start, end in pairwise(ends):
            queries, keys = (self._rotated(x[start:end], told["cos"], told["sin"]) for x in (q, k))
            queries, keys, values = (
                x.astype(kept).astype(np.float64)
                for x in (queries * self.scale, keys, v[start:end])
            )
            y[start:end] = self._seen(queries, keys, values)
        return y.reshape(1, len(y), -1)

    def _normed(self, x: NDArray[np.float64], weight: Floats) -> NDArray[np.float64]:
        cut = x.reshape(len(x), -1, len(weight))
        mean = np.mean(cut * cut, axis=-1, keepdims=True)
        return (cut / np.sqrt(mean + EPSILON) * weight).reshape(x.shape)

    def _rotated(self, x: NDArray[np.float64], cos: Floats, sin: Floats) -> NDArray[np.float64]:
        half = self.turned // 2
        cos, sin = cos[: len(x), None], sin[: len(x), None]
        a, b = x[..., :half], x[..., half : 2 * half]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half :]], axis=-1)

    def _seen(
        self, q: NDArray[np.float64], k: NDArray[np.float64], v: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        k, v = (np.repeat(x, self.heads // self.kv_heads, axis=1) for x in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k)
        if self.cap:
            scores = self.cap * np.tanh(scores / self.cap)
        places = np.arange(len(q))
        ago = places[:, None] - places
        scores[:, (ago < 0) | ((ago >= self.window) & (self.window > 0))] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", weights, v)


CASES = st.builds(
    lambda kv_heads, sharing, size, part, window, cap, scale, norms: Case(
        kv_heads * sharing, kv_heads, size, max(16, int(size * part)), window, cap, scale, norms
    ),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([16, 32, 64, 128]),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from([-1, 1, 7, 150]),
    st.sampled_from([0.0, 20.0]),
    st.sampled_from([0.1, 0.25]),
    st.sampled_from(["none", "head", "whole"]),
)
LENGTHS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, POSITIONS)), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**32 - 1)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(case=CASES, lengths=LENGTHS, seed=SEEDS)
def test_a_token_sees_its_text_up_to_itself(case: Case, lengths: list[int], seed: int) -> None:
    feeds = case.packed(np.random.default_rng(seed), lengths)
    wanted = case.attended(*feeds.values())
    for found in both(case.operator(feeds), feeds):
        assert_near(found, [wanted], tolerance=3e-5)


@pytest.mark.parametrize("lengths", [[5] * 40, [5, 390, 1], [400, 400, 400], [1]])
@pytest.mark.parametrize("norms", ["none", "head"])
def test_the_function_where_there_are_no_kernels(norms: str, lengths: list[int]) -> None:
    case = Case(norms=norms, window=100)
    feeds = case.packed(np.random.default_rng(1), lengths)
    found = opened(case.operator(feeds), native=False).run(None, feeds)
    assert_near(found, [case.attended(*feeds.values())], tolerance=3e-5)


@needs_matrix_unit
@settings(max_examples=30, deadline=None)
@given(case=CASES, lengths=LENGTHS, seed=SEEDS)
def test_the_matrix_unit_rounds_and_no_more(case: Case, lengths: list[int], seed: int) -> None:
    feeds = case.packed(np.random.default_rng(seed), lengths)
    found = opened(case.operator(feeds), native=True).run(None, feeds)
    wanted = case.attended(*feeds.values(), ml_dtypes.bfloat16)
    # Short texts stay off it; of the others weights are rounded too.
    for start, end in pairwise(feeds["cu_seqlens"].tolist()):
        if end - start < 24:
            own = np.asarray([0, end - start], np.int32)
            wanted[:, start:end] = case.attended(feeds["qkv"][:, start:end], own)
    assert_near(found, [wanted], tolerance=1e-2)


@needs_kernels
def test_a_text_comes_out_the_same_in_any_company() -> None:
    case = Case(norms="head")
    feeds = case.packed(np.random.default_rng(3), [30, 5, 200])
    (together,) = natively(case.operator(feeds), feeds)
    for start, end in pairwise(feeds["cu_seqlens"]):
        own = {
            "qkv": feeds["qkv"][:, start:end],
            "cu_seqlens": np.asarray([0, end - start], np.int32),
        }
        (alone,) = natively(case.operator(own), own)
        np.testing.assert_array_equal(together[:, start:end], alone)


@needs_kernels
def test_no_tokens_are_no_work() -> None:
    case = Case()
    feeds = {"qkv": np.zeros((1, 0, 256), np.float32), "cu_seqlens": np.zeros(1, np.int32)}
    (found,) = natively(case.operator(feeds), feeds)
    assert found.shape == (1, 0, 128)


@needs_kernels
@pytest.mark.parametrize(
    ("changed", "lengths", "said"),
    [
        ({}, [POSITIONS + 1], "a position has no angle in cos"),
        ({"num_heads": 3}, [5], "num_heads is no multiple of kv_num_heads"),
        ({"kv_num_heads": 0}, [5], "num_heads is no multiple of kv_num_heads"),
        ({"num_heads": 6, "kv_num_heads": 3}, [5], "not those of one row and all heads"),
        ({"num_heads": 8, "kv_num_heads": 4}, [5], "cos and sin are not those of a part of a head"),
    ],
)
def test_what_is_refused(changed: dict[str, int], lengths: list[int], said: str) -> None:
    case = Case()
    feeds = case.packed(np.random.default_rng(0), lengths)
    attributes = {**case.attributes, **changed}
    # Without the function, for ONNX Runtime has no other choice.
    made = model("PackedCausalAttention", feeds, case.constants, attributes, domain="rbee")
    with pytest.raises(Exception, match=said):
        opened(made, native=True).run(None, feeds)
