"""A checkpoint of random weights that are drawn when they are asked for."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rbee_bench.random_checkpoint import byte_tokenizer
from rbee_export.blocks import BLOCK, BlockMatrix, row_ranges
from rbee_export.checkpoint import DecoderConfig, TokenizerSource
from rbee_export.checkpoint.layout import split_name

_WIDTH = 1.6
"""Spread of a matrix, times the root of its inputs: far wider than models start with, so that
attention attends and a token stands out.
"""


@dataclass(frozen=True)
class RandomTensor:
    """A weight; see :class:`~rbee_export.checkpoint.tensor.Tensor`.

    Norms are drawn around one and biases around zero, widely, so that each of them matters. The
    same name and shape give the same values.

    Attributes:
        name: Its canonical name.
        shape: Outputs first.
        quantized: Whether a matrix is in blocks, of 4 bits with offsets, as GGUF's Q4_1 is.
    """

    name: str
    shape: tuple[int, ...]
    quantized: bool

    @property
    def kind(self) -> str:
        """How it would be stored."""
        return "Q4_1" if self.blocks() is not None else "F32"

    def dense(self) -> NDArray[np.float32]:
        """Return the values as ``float32`` of :attr:`shape`."""
        blocks = self.blocks()
        if blocks is not None:
            return blocks.dequantize()
        random = self._random()
        if len(self.shape) == 2:
            values = random.standard_normal(self.shape, np.float32)
            values *= np.float32(_WIDTH / np.sqrt(self.shape[1]))
            return values
        middle = 1.0 if self.name.endswith("norm") else 0.0
        return random.uniform(middle - 0.5, middle + 0.5, self.shape).astype(np.float32)

    def pieces(self, values: int = 1 << 20) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield ranges of rows with their values."""
        whole = self.dense()
        for rows in row_ranges(self.shape[0], whole[0].size, values):
            yield rows, whole[rows]

    def part(self, rows: slice) -> RandomTensor:
        """Return nothing: these models have no experts."""
        raise NotImplementedError(f"{self.name}: rows {rows}")

    def blocks(self) -> BlockMatrix | None:
        """Return a matrix in blocks, or ``None``."""
        return self._blocks

    @cached_property
    def _blocks(self) -> BlockMatrix | None:
        if not self.quantized or len(self.shape) != 2:
            return None
        random, (rows, columns) = self._random(), self.shape
        packed = random.integers(0, 256, (rows, columns // BLOCK, BLOCK // 2), np.uint8)
        spread = _WIDTH / np.sqrt(columns) / 4.6  # of integers from -8 to 7
        scales = random.uniform(0.5 * spread, 1.5 * spread, packed.shape[:2])
        # As the file's own 16 bits.
        halves = scales.astype(np.float16).astype(np.float32)
        offsets = random.uniform(-spread, spread, packed.shape[:2]).astype(np.float32)
        return BlockMatrix(4, packed, halves, offsets, how="exact")

    def _random(self) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64(zlib.crc32(self.name.encode())))


@dataclass(frozen=True, slots=True)
class RandomCheckpoint:
    """A model of random weights; see :class:`~rbee_export.checkpoint.checkpoint.Checkpoint`.

    Attributes:
        name: What to call it.
        config: Its hyper-parameters.
        quantized: Whether its matrices are in blocks.
    """

    name: str
    config: DecoderConfig
    quantized: bool = False

    @property
    def format(self) -> Literal["gguf", "safetensors"]:
        """How it would be stored."""
        return "gguf" if self.quantized else "safetensors"

    @property
    def files(self) -> tuple[Path, ...]:
        """None: it is on no disk."""
        return ()

    def tensor(self, name: str) -> RandomTensor:
        """Return the weight with this canonical name."""
        return RandomTensor(name, self._shape(name), self.quantized)

    def tokenizer(self) -> TokenizerSource:
        """Return a tokenizer of bytes, without a token that ends a text."""
        return TokenizerSource(byte_tokenizer().to_str(), None, (), None)

    def _shape(self, name: str) -> tuple[int, ...]:
        c = self.config
        _, short, suffix = split_name(name)
        whole = c.qk_norm == "whole"
        matrices = {
            **dict.fromkeys(("embedding", "lm_head"), (c.vocab, c.hidden)),
            "q": (c.q_width, c.hidden),
            **dict.fromkeys(("k", "v"), (c.kv_width, c.hidden)),
            "o": (c.hidden, c.q_width),
            **dict.fromkeys(("gate", "up"), (c.intermediate, c.hidden)),
            "down": (c.hidden, c.intermediate),
        }
        vectors = {
            "q_norm": c.q_width if whole else c.head_dim,
            "k_norm": c.kv_width if whole else c.head_dim,
        }
        if short not in matrices:
            return (vectors.get(short, c.hidden),)
        return matrices[short][:1] if suffix == "bias" else matrices[short]
