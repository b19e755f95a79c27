"""Attention of packed texts whose heads are turned: the operator, and a softmax in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from rbee_export.checkpoint.rope import Rope
from rbee_export.dialect.ort import OPSET
from rbee_export.dialect.packed_causal_attention import packed_causal_attention
from rbee_export.dialect.packed_rotary_attention import packed_rotary_attention

from .native import assert_near, both, model, natively, session
from .packed_texts import likeness, weighted

POSITIONS = 400
EPSILON = 1e-5
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PackedHeads:
    """What a model asks of attention whose heads are turned; by default, a decoder of its own."""

    heads: int = 4
    kv_heads: int = 2
    size: int = 32
    turned: int = 32
    window: int = -1
    cap: float = 0.0
    scale: float = 0.2
    norms: str = "none"
    reach: int = 0

    @property
    def name(self) -> str:
        """Return the operator's."""
        return "PackedRotaryAttention" if self.reach else "PackedCausalAttention"

    @property
    def attributes(self) -> dict[str, int | float]:
        """Return the operator's: a decoder's, or, with a reach, an encoder's."""
        told: dict[str, int | float] = {
            "num_heads": self.heads,
            "kv_num_heads": self.kv_heads,
            "scale": self.scale,
        }
        if self.reach:
            told["reach"] = self.reach
        else:
            told |= {"local_window_size": self.window, "softcap": self.cap}
        return told if self.norms == "none" else {**told, "epsilon": EPSILON}

    @property
    def constants(self) -> dict[str, Floats]:
        """Return angles, and weights of norms where there are any."""
        cos, sin = Rope(10000.0, self.turned).tables(POSITIONS)
        found = {"cos": cos, "sin": sin}
        draw = np.random.default_rng(self.size)
        for name, heads in (("q_norm", self.heads), ("k_norm", self.kv_heads)):
            width = self.size * (heads if self.norms == "whole" else 1)
            if self.norms != "none":
                found[name] = draw.uniform(0.5, 1.5, width).astype(np.float32)
        return found

    def operator(self, feeds: Mapping[str, NDArray[Any]]) -> ir.Model:
        """Return a model of the operator, with the function that it is."""
        norms = self.norms != "none"
        if self.reach:
            shared = self.heads != self.kv_heads
            function = packed_rotary_attention(OPSET, ir.DataType.FLOAT, norms=norms, shared=shared)
        else:
            function = packed_causal_attention(OPSET, ir.DataType.FLOAT, norms=norms)
        return model(function.name, feeds, self.constants, self.attributes, function=function)

    def packed(self, rng: np.random.Generator, lengths: list[int]) -> dict[str, NDArray[Any]]:
        """Return random queries, keys and values of texts that are so long."""
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
        scores = likeness(q, k)
        if self.cap:
            scores = self.cap * np.tanh(scores / self.cap)
        places = np.arange(len(q))
        ago = places[:, None] - places
        hidden = (ago < 0) | ((ago >= self.window) & (self.window > 0))
        scores[:, np.abs(ago) > self.reach if self.reach else hidden] = -np.inf
        return weighted(scores, v)


def must_be_near(case: PackedHeads, lengths: list[int], seed: int) -> None:
    """Hold the kernel, and the function it takes the place of, to a softmax in float64."""
    feeds = case.packed(np.random.default_rng(seed), lengths)
    wanted = case.attended(*feeds.values())
    for found in both(case.operator(feeds), feeds):
        assert_near(found, [wanted], tolerance=3e-5)


def must_be_near_without_kernels(case: PackedHeads, lengths: list[int]) -> None:
    """Hold the function, where there are no kernels, to a softmax in float64."""
    feeds = case.packed(np.random.default_rng(1), lengths)
    found = session(case.operator(feeds), native=False).run(None, feeds)
    assert_near(found, [case.attended(*feeds.values())], tolerance=3e-5)


def must_round_and_no_more(case: PackedHeads, lengths: list[int], seed: int) -> None:
    """Hold the matrix unit to what rounding to bfloat16 makes of it."""
    feeds = case.packed(np.random.default_rng(seed), lengths)
    found = session(case.operator(feeds), native=True).run(None, feeds)
    wanted = case.attended(*feeds.values(), ml_dtypes.bfloat16)
    # Short texts stay off it; of the others weights are rounded too.
    for start, end in pairwise(feeds["cu_seqlens"].tolist()):
        if end - start < 24:
            own = np.asarray([0, end - start], np.int32)
            wanted[:, start:end] = case.attended(feeds["qkv"][:, start:end], own)
    assert_near(found, [wanted], tolerance=1e-2)


def must_not_mind_company(case: PackedHeads) -> None:
    """Hold the kernel to the same bits for a text alone and among others."""
    feeds = case.packed(np.random.default_rng(3), [30, 5, 200])
    (together,) = natively(case.operator(feeds), feeds)
    for start, end in pairwise(feeds["cu_seqlens"]):
        own = {
            "qkv": feeds["qkv"][:, start:end],
            "cu_seqlens": np.asarray([0, end - start], np.int32),
        }
        (alone,) = natively(case.operator(own), own)
        np.testing.assert_array_equal(together[:, start:end], alone)


def must_refuse(case: PackedHeads, changed: dict[str, int], lengths: list[int], said: str) -> None:
    """Hold the kernel to refusing changed attributes, or texts of such lengths."""
    feeds = case.packed(np.random.default_rng(0), lengths)
    attributes = {**case.attributes, **changed}
    # Without the function, for ONNX Runtime has no other choice.
    made = model(case.name, feeds, case.constants, attributes, domain="rbee")
    with pytest.raises(Exception, match=said):
        session(made, native=True).run(None, feeds)
