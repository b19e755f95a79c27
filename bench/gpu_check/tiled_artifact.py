"""An artifact of any size in a second: its weights are parts of the same few random bytes.

The graph is the exporter's own. Each of its weights takes its place on the GPU, where steps read
all of them; only the file that they come from is small.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gpu_check.random_weights import RandomCheckpoint
from rbee_export.blocks import BLOCK, Bits, BlockMatrix
from rbee_export.checkpoint import DecoderConfig
from rbee_export.decoder import build
from rbee_export.dialect import OrtDialect, greedy_graph, sampler_graph
from rbee_export.export import write_manifest
from rbee_export.staging import file_entry
from rbee_export.weights import Matrix, Weights
from rbee_export.weights_file import SHARD, WeightsFile
from rbee_runtime.artifact import CacheGeometry, Manifest, Precision, Shapes, Source

_EXPORTER = "gpu-check"
_TILE = 1 << 23
_ALIGNED = 32


def write_artifact(config: DecoderConfig, precision: Precision, directory: Path) -> None:
    """Write an artifact for CUDA, at ``fp16``, ``int8`` or ``int4``, of random weights.

    Its manifest counts the bytes on disk, not those on the GPU.

    Raises:
        OSError: The disk is full.
    """
    directory.mkdir()
    with _PooledFile(directory / "model.onnx.data") as file:
        weights = _PooledWeights(config, precision, file)
        dialect = OrtDialect(config, weights, file, ir.DataType.FLOAT16)
        build(dialect, config)
        ir.save(dialect.model(_EXPORTER), directory / "model.onnx")
    ir.save(greedy_graph(config.vocab, _EXPORTER), directory / "greedy.onnx")
    ir.save(sampler_graph(config.vocab, _EXPORTER), directory / "sampler.onnx")
    tokenizer = RandomCheckpoint(_EXPORTER, config).tokenizer()
    (directory / "tokenizer.json").write_text(tokenizer.tokenizer_json, encoding="utf-8")
    manifest = Manifest(
        exporter=_EXPORTER,
        source=Source(format="safetensors", name="random", sha256="0" * 64),
        model_ref="file:random",
        family=config.family,
        shapes=Shapes(
            layers=config.layers,
            hidden=config.hidden,
            intermediate=config.intermediate,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            vocab=config.vocab,
            context_length=config.context_length,
        ),
        precision=precision,
        dialect="ort",
        cache=CacheGeometry(
            layers=config.layers,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            dtype="float16",
        ),
        files=(
            file_entry("graph", directory / "model.onnx"),
            *file.entries,
            file_entry("greedy", directory / "greedy.onnx"),
            file_entry("sampler", directory / "sampler.onnx"),
            file_entry("tokenizer", directory / "tokenizer.json"),
        ),
        bos_token_id=None,
        eos_token_ids=(),
        chat_template=None,
    )
    write_manifest(manifest, directory)


class _PooledFile(WeightsFile):
    """A weights file in which arrays that are parts of a pool take no room of their own."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, SHARD)
        self._pools: list[tuple[int, int, ir.ExternalTensor]] = []

    def add_pool(self, name: str, pool: NDArray[Any]) -> None:
        """Append a pool."""
        self._pools.append((pool.ctypes.data, pool.nbytes, super().add(name, pool)))

    def add(self, name: str, array: NDArray[np.generic]) -> ir.ExternalTensor:
        """Describe an array, and append it unless it is a part of a pool."""
        address = array.ctypes.data
        for start, size, tensor in self._pools:
            if start <= address < start + size:
                return ir.ExternalTensor(
                    tensor.location,
                    (tensor.offset or 0) + address - start,
                    array.nbytes,
                    ir.DataType.from_numpy(array.dtype),
                    shape=ir.Shape(array.shape),
                    name=name,
                    base_dir=tensor.base_dir,
                )
        return super().add(name, array)


class _PooledWeights(Weights):
    """Weights that are parts of a few random bytes.

    Values at ``fp16`` are between 2^-9 and 2^-5 in size; those in blocks spread as widely.
    """

    def __init__(self, config: DecoderConfig, precision: Precision, file: _PooledFile) -> None:
        super().__init__(RandomCheckpoint("random", config), precision, "fp16")
        random = np.random.Generator(np.random.SFC64(0))
        largest = max(config.vocab * config.hidden, 2 * config.intermediate * config.hidden)
        bits = random.integers(0, 1 << 16, _TILE, np.uint16)
        pools: dict[str, NDArray[Any]]
        if precision == "fp16":
            # Sign and mantissa as they came; an exponent of -9 to -6, of two other bits.
            bits = bits & np.uint16(0x83FF) | ((bits >> 10 & 3) + np.uint16(6)) << np.uint16(10)
            pools = {"values": np.resize(bits, largest).view(np.float16)}
        else:
            scales = random.uniform(0.002, 0.006, _TILE) / (1 if precision == "int4" else 16)
            # No element -8: the others balance, and activations stay finite through all layers.
            bytes_ = bits.view(np.uint8)
            bytes_ |= np.where(bytes_ & 0x0F, 0, 0x08).astype(np.uint8)
            bytes_ |= np.where(bytes_ & 0xF0, 0, 0x80).astype(np.uint8)
            pools = {
                "values": np.resize(bytes_, largest),
                "scales": np.resize(scales.astype(np.float16), largest // BLOCK),
            }
        for name, pool in pools.items():
            file.add_pool(name, pool)
        object.__setattr__(self, "_pools", pools)

    __slots__ = ("_pools",)
    _pools: dict[str, NDArray[Any]]

    def vector(self, name: str, size: int) -> NDArray[np.float32]:
        """Return a norm's weights: ones."""
        del name
        return np.ones(size, np.float32)

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        """Return a part of the pools as a matrix."""
        if self.precision == "fp16":
            return self._part("values", name, rows * columns).reshape(rows, columns)
        bits: Bits = 8 if self.precision == "int8" or name in ("embedding", "lm_head") else 4
        shape = (rows, columns // BLOCK, BLOCK * bits // 8)
        packed = self._part("values", name, rows * columns * bits // 8).reshape(shape)
        return BlockMatrix(
            bits, packed, self._part("scales", name, shape[0] * shape[1]).reshape(shape[:2])
        )

    def stacked(
        self, rows: Mapping[str, int], columns: int
    ) -> list[tuple[Mapping[str, int], Matrix]]:
        """Return matrices that multiply the same activations as one."""
        return [(rows, self.matrix("+".join(rows), sum(rows.values()), columns))]

    def _part(self, pool: str, name: str, size: int) -> NDArray[Any]:
        values = self._pools[pool]
        room = (values.size - size) // _ALIGNED
        start = _ALIGNED * (zlib.crc32(name.encode()) % (room + 1))
        return values[start : start + size]
