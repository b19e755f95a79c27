"""A checkpoint of any size with random weights, written a little at a time."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

_SHARD = 1_000_000_000
_CHUNK = 1 << 22
_BF16_ONE = 0x3F80


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model of Llama's kind; its output projection is not its embedding."""

    vocab: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    layers: int = 1

    @classmethod
    def of(cls, gigabytes: float) -> ModelShape:
        """Return a model of this size, as like as may be to one of those people use."""
        llamas = [
            cls(128_256, 4096, 14_336, 32, 8),  # Llama 3.1 8B
            cls(128_256, 2048, 8192, 32, 8),  # Llama 3.2 1B
            cls(32_000, 2048, 5632, 32, 4),  # TinyLlama
            cls(8192, 512, 2048, 8, 2),
        ]
        wanted = gigabytes * 1e9
        one = next((shape for shape in llamas if shape.nbytes <= wanted), llamas[-1])
        layer = one.nbytes - one.with_layers(0).nbytes
        return one.with_layers(1 + max(0, math.ceil((wanted - one.nbytes) / layer)))

    def with_layers(self, layers: int) -> ModelShape:
        """Return it with another number of layers."""
        return replace(self, layers=layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all its weights."""
        return sum(2 * math.prod(sizes) for sizes in self.tensors().values())

    @property
    def largest_nbytes(self) -> int:
        """Bytes of its largest tensor."""
        return max(2 * math.prod(sizes) for sizes in self.tensors().values())

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the sizes of every tensor, in the order in which they are stored."""
        hidden, kv = self.hidden, self.hidden // self.heads * self.kv_heads
        sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, hidden)}
        for layer in range(self.layers):
            for name, size in (
                ("input_layernorm", (hidden,)),
                ("self_attn.q_proj", (hidden, hidden)),
                ("self_attn.k_proj", (kv, hidden)),
                ("self_attn.v_proj", (kv, hidden)),
                ("self_attn.o_proj", (hidden, hidden)),
                ("post_attention_layernorm", (hidden,)),
                ("mlp.gate_proj", (self.intermediate, hidden)),
                ("mlp.up_proj", (self.intermediate, hidden)),
                ("mlp.down_proj", (hidden, self.intermediate)),
            ):
                sizes[f"model.layers.{layer}.{name}.weight"] = size
        return {**sizes, "model.norm.weight": (hidden,), "lm_head.weight": (self.vocab, hidden)}

    def config(self) -> dict[str, object]:
        """Return its ``config.json``."""
        return {
            "model_type": "llama",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "tie_word_embeddings": False,
            "eos_token_id": 0,
        }


def write_checkpoint(
    shape: ModelShape, directory: Path, progress: Callable[[int], None] = lambda _: None
) -> None:
    """Write a checkpoint in bfloat16, in shards of a gigabyte; the same shape gives the same bytes.

    A few megabytes of it are in memory at a time.

    Args:
        shape: What to write.
        directory: Where to; it exists.
        progress: Called with the bytes of weights that are written.

    Raises:
        OSError: The disk is full or not writable.
    """
    random = np.random.Generator(np.random.SFC64(0))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = _SHARD
    for name, sizes in shape.tensors().items():
        nbytes = 2 * math.prod(sizes)
        if nbytes > room and shards[-1]:
            shards.append({})
            room = _SHARD
        shards[-1][name] = sizes
        room -= nbytes
    done = 0
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = directory / f"model-{number:05}-of-{len(shards):05}.safetensors"
        with file.open("wb") as stream:
            stream.write(_header(shard))
            for name, sizes in shard.items():
                weight_map[name] = file.name
                for chunk in _values(random, sizes):
                    stream.write(chunk.data)
                    done += chunk.nbytes
                    progress(done)
    _write_json(directory / "model.safetensors.index.json", {"weight_map": weight_map})
    _write_json(directory / "config.json", shape.config())
    byte_tokenizer().save(str(directory / "tokenizer.json"))


def _header(shard: dict[str, tuple[int, ...]]) -> bytes:
    entries, at = {}, 0
    for name, sizes in shard.items():
        end = at + 2 * math.prod(sizes)
        entries[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": (at, end)}
        at = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _values(random: np.random.Generator, sizes: tuple[int, ...]) -> Iterator[NDArray[np.uint16]]:
    """Yield the bits of bfloat16 weights: ones for a norm, else noise between 2^-9 and 2^-5."""
    total = math.prod(sizes)
    if len(sizes) == 1:
        yield np.full(total, _BF16_ONE, np.uint16)
        return
    for start in range(0, total, _CHUNK):
        bits = random.integers(0, 1 << 16, min(_CHUNK, total - start), np.uint16)
        # Sign and mantissa as they came; an exponent of -9 to -6, of two of the other bits.
        exponents = (bits >> np.uint16(7) & np.uint16(3)) + np.uint16(127 - 9)
        yield bits & np.uint16(0x807F) | exponents << np.uint16(7)


def byte_tokenizer() -> Tokenizer:
    """Return one whose tokens are bytes: nothing will be said with it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"</s>": 0, **{letter: n for n, letter in enumerate(letters, 1)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content) + "\n", encoding="utf-8")
