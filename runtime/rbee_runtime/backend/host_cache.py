"""What the CPU's KV cache is kept in."""

from __future__ import annotations

from typing import Literal

from rbee_runtime import kernels
from rbee_runtime.artifact import Artifact, CacheGeometry
from rbee_runtime.errors import DeviceError, InvalidSetting

CacheType = Literal["int8"]
"""What the cache may be kept in instead of what it is in by itself."""

_PART = 32
"""Numbers of a head that share a scale."""

_WIDEST = 512
"""Numbers of a head that the kernels take at most (``kMostByteSize``)."""


def host_cache(artifact: Artifact, cache_type: CacheType | None = None) -> CacheGeometry:
    """Return the geometry of the cache that this machine's CPU keeps for an artifact.

    It is of 16 bits where the artifact has a graph for that and the native kernels run, or of 8 if
    asked for.

    Args:
        artifact: The model.
        cache_type: ``int8``, or ``None`` for what it is in by itself.

    Raises:
        DeviceError: It cannot be of 8 bits, or ``RBEE_KERNELS`` names kernels that are not to be
            had here.
    """
    cache = artifact.manifest.cache
    if cache_type is not None:
        check_bytes(artifact)
        return in_bytes(cache)
    if artifact.half_cache_graph is None:
        return cache
    return halved(cache) if kernels.usable() else cache


def halved(cache: CacheGeometry) -> CacheGeometry:
    """Return the geometry of the same cache in 16 bits."""
    return cache.model_copy(update={"dtype": "float16"})


def in_bytes(cache: CacheGeometry) -> CacheGeometry:
    """Return the geometry of the same cache in 8 bits."""
    return cache.model_copy(update={"dtype": "int8"})


def check_cache_type(name: str | None) -> None:
    """Refuse what names no type that a cache can be chosen to have.

    Raises:
        InvalidSetting: It is not known.
    """
    if name not in (None, "int8"):
        raise InvalidSetting(f"cache type {name!r} is not known; use int8, or leave it out")


def check_bytes(artifact: Artifact) -> None:
    """Refuse to keep a cache in 8 bits where nothing can.

    Raises:
        DeviceError: One line says why, and what to do.
    """
    manifest = artifact.manifest
    width = manifest.cache.head_dim
    remedy = "leave --cache-type out"
    if manifest.target != "cpu":
        why = f"only on the CPU, and this artifact is compiled for {manifest.target}"
    elif artifact.half_cache_graph is None:
        why = f"its graph at {manifest.precision} keeps it in {manifest.cache.dtype}"
        remedy += ", or export again with --precision int8, int4 or gguf"
    elif width % _PART != 0 or width > _WIDEST:
        why = f"heads must have a multiple of {_PART} numbers, up to {_WIDEST}, not {width}"
    else:
        try:
            kernels.library()
        except kernels.NoKernels as error:
            why = f"only the native kernels can: {error}"
        else:
            return
    raise DeviceError(f"{artifact.path}: the cache cannot be kept in int8: {why}; {remedy}")
