"""A directory of safetensors, as model hubs lay it out, as a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from rbee_export.checkpoint import hf_gpt_oss, mxfp4, scaled_floats
from rbee_export.checkpoint.checkpoint import TokenizerSource
from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.dense_tensor import DenseTensor
from rbee_export.checkpoint.foreign_weights import REMEDY, quantised_by
from rbee_export.checkpoint.hf_layout import locate, read_config
from rbee_export.checkpoint.json_file import read_json
from rbee_export.checkpoint.layout import Stored, split_name
from rbee_export.checkpoint.model_directory import beside, read_shards
from rbee_export.checkpoint.scaled_floats import ScaledFloats
from rbee_export.checkpoint.stacked_tensor import StackedTensor
from rbee_export.checkpoint.tokenizer_directory import read_directory_tokenizer
from rbee_export.errors import CheckpointError, UnsupportedModel

_KINDS = ("F32", "F16", "BF16", scaled_floats.KIND)


@dataclass(frozen=True, slots=True)
class SafetensorsCheckpoint:
    """A safetensors directory; see :class:`~rbee_export.checkpoint.checkpoint.Checkpoint`."""

    path: Path
    name: str
    config: DecoderConfig
    shards: Mapping[str, Path] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    format: Literal["safetensors"] = "safetensors"
    quantized: Literal[False] = False

    @classmethod
    def open(cls, path: Path, name: str | None = None) -> Self:
        """Read the directory's configuration and its files' headers; weights stay on disk.

        Args:
            path: The directory.
            name: What to call it; ``None`` for its own name.

        Raises:
            CheckpointError: A file is missing or damaged.
            UnsupportedModel: The architecture is not known here.
        """
        beside(path)  # before anything is read
        settings = read_json(path / "config.json")
        config = read_config(path / "config.json", settings)
        if not config.causal:
            raise UnsupportedModel(
                f"{path}: use_bidirectional_attention is not supported in language models"
            )
        return cls(path, name or path.resolve().name, config, read_shards(path), settings)

    @property
    def files(self) -> tuple[Path, ...]:
        """Weights, configuration and tokenizer."""
        return model_files(self.path, self.shards)

    def tensor(self, name: str) -> DenseTensor | StackedTensor:
        """Return the weight with this canonical name."""
        place = locate(name, self.config, self.shards)
        if place.experts is not None:
            return self._experts(place, bias=split_name(name)[2] == "bias")
        if place.group is not None:
            return StackedTensor(read_groups(self.path, self.shards, place))
        return read_tensor(self.path, self.shards, place)

    def _experts(self, place: Stored, *, bias: bool) -> DenseTensor | StackedTensor:
        if bias:
            return read_biases(self.path, self.shards, place)
        if place.name.endswith(hf_gpt_oss.BLOCKS):
            return StackedTensor(mxfp4.read_experts(self.path, self.shards, place))
        return StackedTensor(read_experts(self.path, self.shards, place))

    def tokenizer(self) -> TokenizerSource:
        """Return the tokenizer beside the weights."""
        return read_directory_tokenizer(self.path, self.settings)


def model_files(path: Path, shards: Mapping[str, Path] | None = None) -> tuple[Path, ...]:
    """Return the files of a model directory that make up the model.

    Args:
        path: The directory.
        shards: Its weights' files by tensor, where they are known.

    Raises:
        CheckpointError: There are no weights, or they are damaged.
    """
    weights = sorted(set((shards or read_shards(path)).values()))
    return (*weights, *beside(path))


def read_experts(path: Path, shards: Mapping[str, Path], place: Stored) -> Sequence[DenseTensor]:
    """Return a matrix of each expert, all of one shape, still on disk.

    Args:
        path: The directory.
        shards: The file of each tensor.
        place: Where they are.

    Raises:
        CheckpointError: One is missing, or of another shape than the first.
        UnsupportedModel: One is stored in a type this exporter does not read.
    """
    tensors: list[DenseTensor] = []
    for expert in range(place.experts or 0):
        own = replace(place, name=place.name.format(expert))
        tensor = read_tensor(path, shards, own, None if own.name != place.name else expert)
        first = tensors[0].shape if tensors else tensor.shape
        if len(tensor.shape) != 2 or tensor.shape != first:
            raise CheckpointError(
                f"{path}: tensor {own.name} is no matrix of the shape that every expert's has"
            )
        tensors.append(tensor)
    return tensors


def read_groups(path: Path, shards: Mapping[str, Path], place: Stored) -> Sequence[DenseTensor]:
    """Return the rows of a weight in each part of a tensor that it shares, still on disk.

    Args:
        path: The directory.
        shards: The file of each tensor.
        place: Where they are.

    Raises:
        CheckpointError: There is no such tensor, or it does not fall into such parts.
        UnsupportedModel: It is stored in a type this exporter does not read.
    """
    whole = read_tensor(path, shards, replace(place, rows=None))
    group, rows = place.group or 1, place.rows or slice(None)
    count, rest = divmod(whole.shape[0] if whole.shape else 0, group)
    if rest or not count:
        raise CheckpointError(
            f"{path}: tensor {place.name} has shape {list(whole.shape)}, which does not fall into "
            f"heads of {group} rows"
        )
    start, stop, _ = rows.indices(group)
    return [whole.part(slice(i * group + start, i * group + stop)) for i in range(count)]


def read_biases(path: Path, shards: Mapping[str, Path], place: Stored) -> DenseTensor:
    """Return the biases of all experts, one after another; arguments and errors are as above."""
    whole = read_tensor(path, shards, Stored(place.name))
    if len(whole.shape) != 2 or whole.shape[0] != place.experts:
        raise CheckpointError(
            f"{path}: tensor {place.name} does not hold the biases of {place.experts} experts"
        )
    values = whole.dense()[:, place.rows or slice(None)].reshape(-1)
    return DenseTensor(values.shape, whole.kind, values.__getitem__)


def read_tensor(
    path: Path, shards: Mapping[str, Path], place: Stored, expert: int | None = None
) -> DenseTensor:
    """Return a weight of a model directory, still on disk.

    Args:
        path: The directory.
        shards: The file of each tensor.
        place: Where the weight is.
        expert: Whose rows to take of a tensor that has those of ``place.experts``.

    Raises:
        CheckpointError: There is no such tensor.
        UnsupportedModel: It is stored in a type this exporter does not read.
    """
    foreign = quantised_by(place.name, shards)
    if foreign is not None:
        raise UnsupportedModel(f"{path}: its weights are quantised by {foreign}; {REMEDY}")
    if place.name not in shards:
        raise CheckpointError(f"{path}: tensor {place.name} is missing")
    shard = shards[place.name]
    with safe_open(shard, framework="np") as file:
        view = file.get_slice(place.name)
        shape, kind = tuple(view.get_shape()), view.get_dtype()
    if kind not in _KINDS:
        raise UnsupportedModel(
            f"{shard}: tensor {place.name} has type {kind}; supported are {', '.join(_KINDS)}"
        )
    if expert is not None:
        place.check_stack(path, shape)
        shape = shape[1:]
    if place.inputs_first:
        shape = shape[::-1]
    scaled = None
    if kind == scaled_floats.KIND:
        if expert is not None or place.name.endswith(scaled_floats.SUFFIXES):
            raise UnsupportedModel(f"{shard}: tensor {place.name} cannot have type {kind}")
        scaled = _read_scaled(path, shards, place, shape)

    def fetch(rows: slice) -> NDArray[np.float32]:
        if scaled is not None:
            return scaled.read(rows)
        if expert is None:
            return _read(shard, place, kind, rows)
        if not place.inputs_first:
            return _read(shard, place, kind, (expert, rows))
        return _read(shard, place, kind, (expert, slice(None), rows)).T

    first, step = 0, 1
    if place.rows is not None and shape:
        first, end, step = place.rows.indices(shape[0])
        shape = (len(range(first, end, step)), *shape[1:])
    order = place.order
    if order is not None and shape[:1] != order.shape:
        order = None  # its shape contradicts the configuration, which will be found out

    def read(rows: slice) -> NDArray[np.float32]:
        if order is not None and len(order[rows]):
            wanted = order[rows]
            low = wanted.min()
            values = fetch(slice(first + low, first + wanted.max() + 1))
            reordered: NDArray[np.float32] = values[wanted - low]
            return reordered
        if rows != slice(None):
            rows = slice(first + rows.start * step, first + (rows.stop - 1) * step + 1)
        return fetch(rows) if step == 1 else np.ascontiguousarray(fetch(rows)[::step])

    return DenseTensor(shape, kind, read)


def _read_scaled(
    path: Path, shards: Mapping[str, Path], place: Stored, shape: tuple[int, ...]
) -> ScaledFloats:
    """Return a matrix with the scales that lie beside it."""
    shard = shards[place.name]
    for name in (f"{place.name}{suffix}" for suffix in scaled_floats.SUFFIXES):
        if name in shards:
            scales = read_tensor(path, shards, Stored(name)).dense()
            return ScaledFloats.of(shard, place.name, shape, scales)
    raise CheckpointError(
        f"{shard}: tensor {place.name} has type {scaled_floats.KIND}, and no scales beside it"
    )


def _read(
    shard: Path, place: Stored, kind: str, part: slice | tuple[int | slice, ...]
) -> NDArray[np.float32]:
    """Return a part of a tensor."""
    # Opened anew for each range: the pages of a mapped file stay resident until it is closed.
    with safe_open(shard, framework="np") as file:
        if part == slice(None):
            values = file.get_tensor(place.name)
        else:
            values = file.get_slice(place.name)[part]
    if kind == "BF16" and values.dtype != ml_dtypes.bfloat16:
        values = values.view(ml_dtypes.bfloat16)
    weights: NDArray[np.float32] = np.asarray(values).astype(np.float32, copy=False)
    if place.logarithm:
        with np.errstate(over="ignore"):
            return -np.exp(weights)
    return weights + np.float32(place.add) if place.add else weights
