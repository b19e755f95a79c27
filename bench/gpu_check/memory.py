"""Is the GPU's memory counted right, and is there life after it has run out?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpu_check import place
from gpu_check.child import Report
from gpu_check.families import small
from gpu_check.random_weights import RandomCheckpoint
from rbee_export import Options
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import open_backend
from rbee_runtime.device import CudaLibrary
from rbee_runtime.engine import Engine
from rbee_runtime.errors import OutOfMemory, RuntimeFault
from rbee_runtime.request import GREEDY, Request
from rbee_runtime.step import PREFILL_CHUNK

SIZES: Mapping[str, Any] = MappingProxyType(
    {
        "model_type": "llama",
        "vocab_size": 8192,
        "hidden_size": 1024,
        "intermediate_size": 8192,
        "num_hidden_layers": 3,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    }
)
"""A model whose weights, 250 MB, and activations, a few megabytes a chunk, show in the counts."""

_CONTEXT = 1024
BUDGET = 1 << 30
_SMALLEST = 1 << 20
_SLACK = 4 << 20
"""What the driver may take for itself between the two moments that are counted from."""
_KEPT = 0.05
"""Share of the free memory that may stay with the driver after something was given back."""


def account(report: Report) -> None:
    """Compare what the engine says it holds with what the driver sees in use."""
    path = _artifact(report.directory)
    nvml = place.nvml()
    before = nvml.memory().used
    with Engine.load(path, backend="cuda", slots=8, memory_budget=BUDGET) as engine:
        _complete(engine, "one", 50)
        memory, grown = engine.memory(), nvml.memory().used - before
    own = nvml.memory().own
    report.row(what="in use by the driver's account, grown by", bytes=grown)
    report.row(what="told apart by process" if own is not None else "not told apart by process")
    for what in ("weights", "cache", "workspace", "total"):
        report.row(what=what, bytes=getattr(memory, what))
    parts = memory.weights + memory.cache + memory.workspace
    report.row(what="its parts are the total", holds=parts == memory.total)
    report.row(what="the cache is all reserved", holds=memory.cache == memory.cache_reserved)
    known = memory.cache + memory.weights
    report.row(what="weights and cache are in use", holds=grown >= known)
    report.row(what="nothing in use is left out", holds=memory.total + _SLACK >= grown)


def exhaust(report: Report) -> None:
    """Ask for more than there is, twice: a cache, and the memory of a step."""
    path = _artifact(report.directory)
    library = place.library()
    _too_large_a_cache(report, path, library)
    with Engine.load(
        path, backend="cuda", slots=2, context_length=_CONTEXT, memory_budget=BUDGET
    ) as engine:
        _complete(engine, "before", 2)
        held = _take_all(library)
        try:
            said = _complete(engine, "without", 3 * PREFILL_CHUNK)
        finally:
            for address in held:
                library.free(address)
        report.row(what="a step without memory", found=said, holds=said == OutOfMemory.__name__)
        said = _complete(engine, "after", 3 * PREFILL_CHUNK)
        report.row(what="the next one, with memory", found=said, holds=said == "finished")
        report.row(what="the engine is healthy", holds=engine.status().healthy)


def _too_large_a_cache(report: Report, path: Path, library: CudaLibrary) -> None:
    artifact = Artifact.open(path)
    free, _ = library.memory()
    each = artifact.manifest.cache.slot_bytes(_CONTEXT, PREFILL_CHUNK)
    found = "opened"
    try:
        # Kept by nobody: it would stay.
        open_backend(artifact, "cuda", slots=2 * free // each, context=_CONTEXT, budget=4 * free)
    except RuntimeFault as error:
        found = type(error).__name__
    report.row(what="a cache beyond the memory", found=found, holds=found == OutOfMemory.__name__)
    left, _ = library.memory()
    report.row(what="its memory came back", bytes=left, holds=left >= (1 - _KEPT) * free)


def _take_all(library: CudaLibrary) -> list[int]:
    """Allocate until nothing is left, and return the addresses."""
    held = []
    size = 1 << 30
    while size >= _SMALLEST:
        try:
            held.append(library.allocate(size))
        except OutOfMemory:
            size //= 2
    return held


def _complete(engine: Engine, name: str, length: int) -> str:
    """Return ``finished``, or the name of the error that a request ended in."""
    prompt = [3 + number * 7 % 250 for number in range(length)]
    try:
        for _ in engine.stream(Request(name, prompt, 4, GREEDY)):
            pass
    except RuntimeFault as error:
        return type(error).__name__
    return "finished"


def _artifact(directory: Path) -> Path:
    checkpoint = RandomCheckpoint("medium", small("medium", SIZES))
    return place.compiled(checkpoint, directory / "medium", Options("fp16", target="cuda"))
