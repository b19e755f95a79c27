"""A GGUF file as a checkpoint."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from rbee_export.blocks import BLOCK, BlockMatrix, pack
from rbee_export.checkpoint.checkpoint import TokenizerSource
from rbee_export.checkpoint.config import DecoderConfig, Rope
from rbee_export.checkpoint.gguf_fields import read_fields
from rbee_export.checkpoint.gguf_tokenizer import read_tokenizer
from rbee_export.errors import CheckpointError, UnsupportedModel

_DENSE = {Kind.F32, Kind.F16, Kind.BF16}
_QUANTIZED = {Kind.Q4_0, Kind.Q4_1, Kind.Q8_0}

_OUTER = {"embedding": "token_embd", "final_norm": "output_norm", "lm_head": "output"}
_INNER = {
    "attention_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_LAYER_NAME = re.compile(r"layers\.(\d+)\.(\w+)")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A weight of a GGUF file; see :class:`~rbee_export.checkpoint.tensor.Tensor`.

    Attributes:
        shape: Outputs first.
        type: GGML's type of its elements.
        data: The file's bytes, memory-mapped, a row of the matrix to a row of the array.
    """

    shape: tuple[int, ...]
    type: Kind
    data: NDArray[np.generic]

    @property
    def kind(self) -> str:
        """GGML's name of the type, e.g. ``Q4_1``."""
        return self.type.name

    def dense(self) -> NDArray[np.float32]:
        """Return the values as ``float32`` of :attr:`shape`."""
        return (
            gguf.dequantize(self.data, self.type).astype(np.float32, copy=False).reshape(self.shape)
        )

    def blocks(self) -> BlockMatrix | None:
        """Return the file's own blocks unchanged in value, if ``MatMulNBits`` can hold them."""
        if self.type not in _QUANTIZED or len(self.shape) != 2:
            return None
        rows, columns = self.shape
        raw = np.ascontiguousarray(self.data).view(np.uint8).reshape(rows, columns // BLOCK, -1)
        if self.type == Kind.Q8_0:
            # int8 around zero; MatMulNBits takes uint8 around 128.
            return BlockMatrix(8, raw[..., 2:] ^ np.uint8(0x80), _half(raw, 0))
        if self.type == Kind.Q4_0:
            return BlockMatrix(4, _nibbles(raw[..., 2:]), _half(raw, 0))
        scales, minima = _half(raw, 0), _half(raw, 2)
        offsets = minima + np.float32(8) * scales
        if not np.array_equal(offsets - np.float32(8) * scales, minima):
            return None  # a minimum too small beside its scale: the sum is rounded in float32
        return BlockMatrix(4, _nibbles(raw[..., 4:]), scales, offsets)


def _half(raw: NDArray[np.uint8], offset: int) -> NDArray[np.float32]:
    """Read the float16 at a byte offset of every block."""
    pair = np.ascontiguousarray(raw[..., offset : offset + 2])
    return pair.view("<f2")[..., 0].astype(np.float32)


def _nibbles(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reorder nibbles: GGML puts elements j and j + 16 into a byte, ``MatMulNBits`` neighbours."""
    return pack(np.concatenate([stored & 0x0F, stored >> 4], axis=-1), 4)


@dataclass(frozen=True, slots=True)
class GgufCheckpoint:
    """A GGUF file; see :class:`~rbee_export.checkpoint.checkpoint.Checkpoint`."""

    path: Path
    config: DecoderConfig
    fields: Mapping[str, object] = field(repr=False)
    tensors: Mapping[str, gguf.ReaderTensor] = field(repr=False)
    format: Literal["gguf"] = "gguf"

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the file's metadata; weights stay on disk.

        Raises:
            CheckpointError: The file is no GGUF, is truncated, or contradicts itself.
            UnsupportedModel: Its architecture or one of its tensors' types is not known here.
        """
        try:
            reader = gguf.GGUFReader(path)
            fields = read_fields(reader)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (
            ValueError,
            IndexError,
            KeyError,
            TypeError,
            OverflowError,
            MemoryError,
            struct.error,
        ) as error:
            raise CheckpointError(
                f"{path}: not a whole GGUF file ({error}); download or convert it again"
            ) from error
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        for tensor in reader.tensors:
            if tensor.tensor_type not in _DENSE | _QUANTIZED:
                raise UnsupportedModel(
                    f"{path}: tensor {tensor.name} has type {tensor.tensor_type.name}; "
                    f"supported are {', '.join(k.name for k in sorted(_DENSE | _QUANTIZED))}"
                )
        return cls(path, _config(path, fields, tensors), fields, tensors)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def quantized(self) -> bool:
        """Whether any tensor is block-quantised."""
        return any(tensor.tensor_type in _QUANTIZED for tensor in self.tensors.values())

    def tensor(self, name: str) -> GgufTensor:
        """Return the weight with this canonical name."""
        stored = self.tensors.get(_stored_name(name))
        if stored is None:
            raise CheckpointError(f"{self.path}: tensor {_stored_name(name)} is missing")
        shape = tuple(int(n) for n in reversed(stored.shape))
        data = stored.data
        if name.endswith((".q", ".k")):
            heads = self.config.heads if name.endswith(".q") else self.config.kv_heads
            data = data[_halves_order(shape[0], heads)]
        return GgufTensor(shape, Kind(stored.tensor_type), data)

    def tokenizer(self) -> TokenizerSource:
        """Return the tokenizer embedded in the metadata."""
        try:
            return read_tokenizer(self.fields)
        except (CheckpointError, UnsupportedModel) as error:
            raise type(error)(f"{self.path}: {error}") from error


def _stored_name(name: str) -> str:
    match = _LAYER_NAME.fullmatch(name)
    if match is None:
        return f"{_OUTER[name]}.weight"
    return f"blk.{match[1]}.{_INNER[match[2]]}.weight"


def _halves_order(rows: int, heads: int) -> NDArray[np.intp]:
    """Undo the row order of q and k in llama GGUF files.

    They hold each head's rotary pairs next to each other (0, 1), (2, 3) …; the model definition,
    like the checkpoints they were made from, rotates the first half of a head against its second.
    """
    order = np.arange(rows).reshape(heads, rows // heads // 2, 2)
    return np.ascontiguousarray(order.swapaxes(1, 2).reshape(rows))


def _config(
    path: Path, fields: Mapping[str, object], tensors: Mapping[str, gguf.ReaderTensor]
) -> DecoderConfig:
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise UnsupportedModel(f"{path}: architecture {architecture!r} is not supported; llama is")

    def number(key: str, default: float | None = None) -> float:
        value = fields.get(f"llama.{key}", default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise CheckpointError(f"{path}: metadata key llama.{key} is missing or not a number")
        return value

    if number("expert_count", 0):
        raise UnsupportedModel(f"{path}: mixture-of-experts models are not supported")
    heads = int(number("attention.head_count"))
    hidden = int(number("embedding_length"))
    head_dim = int(number("attention.key_length", hidden // max(heads, 1)))
    if int(number("rope.dimension_count", head_dim)) != head_dim:
        raise UnsupportedModel(f"{path}: partial rotary embedding is not supported for llama")
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{path}: tensor token_embd.weight is missing or no matrix")
    divisors = tensors.get("rope_freqs.weight")
    if divisors is not None and divisors.data.shape != (head_dim // 2,):
        raise CheckpointError(f"{path}: rope_freqs.weight does not hold {head_dim // 2} numbers")
    scaling: float | None = None
    kind = fields.get("llama.rope.scaling.type", "none")
    if kind == "linear":
        scaling = number("rope.scaling.factor")
    elif kind != "none":
        raise UnsupportedModel(f"{path}: rope scaling {kind!r} is not supported")
    return DecoderConfig(
        family="llama",
        layers=int(number("block_count")),
        hidden=hidden,
        intermediate=int(number("feed_forward_length")),
        heads=heads,
        kv_heads=int(number("attention.head_count_kv", heads)),
        head_dim=head_dim,
        vocab=int(embedding.shape[1]),
        context_length=int(number("context_length")),
        norm_epsilon=number("attention.layer_norm_rms_epsilon"),
        rope=Rope(
            theta=number("rope.freq_base", 10000.0),
            scaling=scaling,
            divisors=None if divisors is None else tuple(float(d) for d in divisors.data),
        ),
        tied_embedding="output.weight" not in tensors,
    )
