"""What an engine of the standard dialect reads and writes, and whether one at hand does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rbee_runtime.artifact import CacheGeometry, Engine, Manifest
from rbee_runtime.errors import ArtifactError

Shape = tuple[int | str, ...]

ALIGNMENT = 256
"""Bytes that TensorRT wants addresses to be multiples of."""

_TYPES: Mapping[str, str] = MappingProxyType(
    {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64"}
)
"""TensorRT's names of the types that occur."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of the standard dialect.

    Attributes:
        name: Its name.
        dtype: Its type.
        shape: Its sizes; ``batch`` and ``sequence`` are a step's rows and tokens a row.
        is_input: Whether it is read.
        memory_of: The input whose memory an output is written to.
    """

    name: str
    dtype: str
    shape: Shape
    is_input: bool = True
    memory_of: str | None = None

    def sizes(self, batch: int, sequence: int) -> tuple[int, ...]:
        """Return its shape in a step of some rows of some tokens."""
        step = {"batch": batch, "sequence": sequence}
        return tuple(step[size] if isinstance(size, str) else size for size in self.shape)


def tensors(manifest: Manifest, capacity: int) -> Iterator[Tensor]:
    """Yield all inputs and outputs of a model, with a cache of ``capacity`` positions a row."""
    cache = manifest.cache
    yield Tensor("input_ids", "int64", ("batch", "sequence"))
    yield Tensor("write_indices", "int64", ("batch",))
    yield Tensor("nonpad_kv_seqlen", "int64", ("batch",))
    if manifest.long_rope is not None:
        yield Tensor("position_ids", "int64", ("batch", "sequence"))
    yield Tensor("logits", "float32", ("batch", manifest.shapes.vocab), is_input=False)
    shape = ("batch", cache.kv_heads, capacity, cache.head_dim)
    for layer in range(cache.layers):
        for kind in ("key", "value"):
            past = f"past_{kind}.{layer}"
            yield Tensor(past, cache.dtype, shape)
            yield Tensor(f"present_{kind}.{layer}", cache.dtype, shape, False, past)


def aligned_positions(cache: CacheGeometry, positions: int) -> int:
    """Return how many positions, so many at least, a slot must have for all slots to be aligned.

    Slots lie side by side, as rows of a step do.
    """
    position = cache.bytes_per_token // (2 * cache.layers)
    step = ALIGNMENT // math.gcd(ALIGNMENT, position)
    return -(-positions // step) * step


def check_tensors(engine: Any, trt: Any, entry: Engine, manifest: Manifest, file: Path) -> None:
    """See that an engine takes what will be bound to it: nobody else checks addresses.

    Args:
        engine: TensorRT's engine.
        trt: The package it is of.
        entry: What the manifest says of it.
        manifest: The artifact's.
        file: Its file, for the message.

    Raises:
        ArtifactError: It does not; the message names the first difference.
    """
    wanted = {tensor.name: tensor for tensor in tensors(manifest, entry.max_length)}
    there = {engine.get_tensor_name(n) for n in range(engine.num_io_tensors)}
    profiles = engine.num_optimization_profiles
    difference = None
    if there != set(wanted):
        names = ", ".join(sorted(there ^ set(wanted))[:3])
        difference = f"other inputs and outputs ({names})"
    elif aligned_positions(manifest.cache, entry.max_length) != entry.max_length:
        difference = f"slots of {entry.max_length} positions, which are not aligned"
    elif profiles != len(entry.profiles) or not profiles:
        difference = f"{profiles} profiles, not the manifest's {len(entry.profiles)}"
    else:
        found = (_difference(engine, trt, entry, tensor) for tensor in wanted.values())
        difference = next((one for one in found if one is not None), None)
    if difference is not None:
        raise ArtifactError(f"{file}: the engine has {difference}; export it again")


def _difference(engine: Any, trt: Any, entry: Engine, tensor: Tensor) -> str | None:
    """Say in what an engine's tensor differs from what is to be bound."""
    name = tensor.name
    dtype = engine.get_tensor_dtype(name)
    if _TYPES.get(dtype.name) != tensor.dtype:
        return f"{name} of type {dtype.name}, not {tensor.dtype}"
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        return f"{name} on the host"
    if (engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT) != tensor.is_input:
        return f"{name} the other way round"
    sizes = tuple(engine.get_tensor_shape(name))
    fixed = [isinstance(size, int) for size in tensor.shape]
    if len(sizes) != len(fixed) or any(
        own and size != there for own, size, there in zip(fixed, tensor.shape, sizes, strict=True)
    ):
        return f"{name} of {sizes}"
    if tensor.memory_of is not None and engine.get_aliased_input_tensor(name) != tensor.memory_of:
        return f"{name} outside of {tensor.memory_of}, so that its cache is not updated in place"
    if not tensor.is_input:
        return None
    for number, profile in enumerate(entry.profiles):
        bounds = [tuple(shape) for shape in engine.get_tensor_profile_shape(name, number)]
        low, high = zip(profile.batch, profile.sequence, strict=True)
        if (bounds[0], bounds[-1]) != (tensor.sizes(*low), tensor.sizes(*high)):
            return f"{name} from {bounds[0]} to {bounds[-1]} in profile {number}"
    return None
