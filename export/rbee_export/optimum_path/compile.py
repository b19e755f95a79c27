"""A transformers directory in; the graph and weights of an artifact out."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import onnx_ir as ir

from rbee_export.errors import CheckpointError, ExportError, UnsupportedModel
from rbee_export.optimum_path.check import check
from rbee_export.optimum_path.graph import Interface, keep_last_logits, save
from rbee_export.optimum_path.source import Source
from rbee_export.optimum_path.traced import GRAPH, Traced
from rbee_export.staging import file_entry
from rbee_export.weights_file import WeightsFile
from rbee_runtime.artifact import CacheGeometry, FileEntry, Shapes

WEIGHTS = "model.onnx.data"

StageProgress = Callable[[str], None]
"""Called with what is being done, in a word or three."""

INSTALL = "pip install 'onnx-worker-rbee[export-all]'"
_PROCESS = "rbee_export.optimum_path.process"
_ERRORS = {error.__name__: error for error in (CheckpointError, ExportError, UnsupportedModel)}


def _ignore(_stage: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Compiled:
    """What goes into the manifest of an artifact made with optimum.

    Its dialect is ``optimum``, its precision ``fp32``.

    Attributes:
        family: The model's ``model_type``.
        shapes: Its dimensions; the context length is the one the graph is right for.
        cache: Geometry of its cache. Where a model's cache tensors differ in shape, that of equal
            ones which take at least as many bytes; their own shapes are in the graph.
        files: Graph and weights.
        error: Largest error of the logits of a step, relative to the logits, against transformers.
        notes: What the user should know, a sentence each.
    """

    family: str
    shapes: Shapes
    cache: CacheGeometry
    files: tuple[FileEntry, ...]
    error: float
    notes: tuple[str, ...]


def export_with_optimum(
    checkpoint: Path, staging: Path, progress: StageProgress = _ignore
) -> Compiled:
    """Export a decoder in transformers' format, and see that the result computes the same.

    Loading and tracing happen in a process of their own. No network is used, no code of the
    checkpoint runs, and no pickle is read.

    Args:
        checkpoint: Directory with ``config.json`` and ``*.safetensors``.
        staging: Existing directory that gets ``model.onnx`` and ``model.onnx.data``.
        progress: Called at the start of each stage.

    Raises:
        CheckpointError: The checkpoint is missing, damaged, or contradicts itself.
        UnsupportedModel: optimum or the runtime does not know the architecture, or the exported
            graph computes something else than the model.
        ExportError: optimum is not installed, or its process died.
        OSError: The disk is full.
    """
    source = Source.open(checkpoint)
    if missing := _missing_package():
        raise ExportError(f"--exporter optimum needs {missing}, which is not installed: {INSTALL}")
    graph = staging / GRAPH
    with tempfile.TemporaryDirectory(prefix="optimum-", dir=staging) as name:
        traced_directory = Path(name)
        traced = _trace(source, traced_directory, progress)
        progress("writing")
        model = ir.load(traced_directory / GRAPH)
        interface = Interface.of(model, checkpoint)
        keep_last_logits(model)
        with WeightsFile(staging / WEIGHTS) as weights:
            save(model, graph, weights)
        progress("checking")
        error = check(graph, interface, traced_directory, checkpoint)
    cache = interface.geometry
    return Compiled(
        family=traced.family,
        shapes=Shapes(
            layers=traced.layers,
            hidden=traced.hidden,
            intermediate=traced.intermediate,
            heads=traced.heads,
            kv_heads=cache.kv_heads,
            head_dim=cache.head_dim,
            vocab=interface.vocab,
            context_length=traced.context_length,
        ),
        cache=cache,
        files=(
            file_entry("graph", graph),
            *weights.entries,
        ),
        error=error,
        notes=traced.notes,
    )


def is_installed() -> bool:
    """Return whether optimum, and what it needs, is there."""
    return _missing_package() is None


def _missing_package() -> str | None:
    for package in ("torch", "transformers", "optimum"):
        if importlib.util.find_spec(package) is None:
            return package
    # A part of optimum that comes in a package of its own, and takes seconds to import.
    try:
        importlib.metadata.distribution("optimum-onnx")
    except importlib.metadata.PackageNotFoundError:
        return "optimum-onnx"
    return None


def _trace(source: Source, output: Path, progress: StageProgress) -> Traced:
    """Run the tracing process and return what it found out."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    # -P: the directory the user stands in, maybe a downloaded one, is no place to import from.
    command = [sys.executable, "-P", "-m", _PROCESS, str(source.path), str(output)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said = json.loads(line)
                if "stage" in said:
                    progress(said["stage"])
                elif "traced" in said:
                    return _traced(said["traced"])
                else:
                    raise _ERRORS[said["error"]](said["message"])
            raise _death(source.path, process.wait(), errors)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def _traced(said: dict[str, Any]) -> Traced:
    return Traced(**{**said, "notes": tuple(said["notes"])})


def _death(checkpoint: Path, code: int, errors: IO[bytes]) -> ExportError:
    """Return the error for a process that ended without a word."""
    if code == -signal.SIGKILL:
        cause = "it was killed, most likely for lack of memory"
    elif code < 0:
        cause = signal.strsignal(-code) or f"signal {-code}"
    else:
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 4096))
        lines = errors.read().decode(errors="replace").strip().splitlines()
        cause = lines[-1][:300] if lines else f"exit code {code}"
    return ExportError(f"{checkpoint}: the process that runs optimum failed: {cause}")
