"""What to make of a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Literal

import onnx_ir as ir

from rbee_export.checkpoint import Checkpoint
from rbee_export.errors import ExportError
from rbee_runtime.artifact import Precision


def _version() -> str:
    try:
        return version("onnx-worker-rbee")
    except PackageNotFoundError:
        return "of a checkout"  # run from there, without having been installed


EXPORTER = f"rbee-export {_version()}"

_METHODS: Mapping[str, str] = MappingProxyType({"int4": "calibrated 2"})
"""How precisions round, where that has changed: a mark by which older artifacts are told apart."""

_WITHOUT_BF16 = "SM75"
"""The one architecture that engines are built for and that has no 16-bit floats of this kind."""


@dataclass(frozen=True, slots=True)
class TensorRtTarget:
    """Engines to build into an artifact.

    Attributes:
        architectures: GPUs to build for, e.g. ``SM89``; none for the one that is here.
        max_batch: Rows of a decode step at most.
        max_len: Positions of a slot.
        engines: Build any: a worker can build one of the graph by itself.
    """

    architectures: tuple[str, ...]
    max_batch: int = 8
    max_len: int = 4096
    engines: bool = True


@dataclass(frozen=True, slots=True)
class Options:
    """What to make of a checkpoint.

    Attributes:
        precision: How to hold the weights; ``auto`` keeps a quantised GGUF's own blocks and takes
            ``int8`` otherwise.
        model_ref: The reference the worker will announce; ``None`` makes one of the checkpoint's
            name.
        target: What runs it: ONNX Runtime on ``cpu`` or on ``cuda``, or TensorRT. The graph of
            ``fp16`` and ``bf16`` is the same on either.
    """

    precision: Literal["auto"] | Precision = "auto"
    model_ref: str | None = None
    target: Literal["cpu", "cuda"] | TensorRtTarget = "cpu"

    @property
    def tensorrt(self) -> TensorRtTarget | None:
        """The target, if it is TensorRT."""
        return self.target if isinstance(self.target, TensorRtTarget) else None

    def resolve(self, checkpoint: Checkpoint) -> Precision:
        """Return the precision for this checkpoint.

        Raises:
            ExportError: ``gguf`` was asked of a checkpoint without quantised blocks, ``fp32`` for
                CUDA, or anything that is for GPUs of a model that runs on the CPU alone.
        """
        if self.precision == "fp32" and self.target == "cuda":
            raise ExportError(
                f"{checkpoint.name}: attention on CUDA has no fp32 kernel; "
                "use --precision fp16 or bf16, or leave --target out"
            )
        for what, there in (
            ("mixtures of experts", checkpoint.config.experts),
            ("hybrid models", checkpoint.config.mixer),
        ):
            if there is not None:
                self._require_cpu(checkpoint, what)
        if self.precision == "auto":
            return "gguf" if checkpoint.quantized else "int8"
        if self.precision == "gguf" and not checkpoint.quantized:
            raise ExportError(
                f"{checkpoint.name}: has no quantised blocks for --precision gguf to keep; "
                "use fp32, int8 or int4"
            )
        if self.precision == "fp16" and self._overflows(checkpoint, "fp16"):
            return "bf16"
        return self.precision

    def _require_cpu(self, checkpoint: Checkpoint, what: str) -> None:
        if self.target == "cpu" and self.precision not in ("fp16", "bf16"):
            return
        raise ExportError(
            f"{checkpoint.name}: {what} run on the CPU alone; leave --target out and "
            "use --precision int8, int4, gguf or fp32"
        )

    def computes_in(self, checkpoint: Checkpoint, precision: Precision) -> ir.DataType:
        """Return what a graph computes in, which is what its cache holds.

        Raises:
            ExportError: A GPU that engines are to be built for lacks that type.
        """
        # Beside quantised weights, GPUs have kernels for 16 bits, the CPU for 32.
        if precision == "fp32" or (precision not in ("fp16", "bf16") and self.target == "cpu"):
            return ir.DataType.FLOAT
        if precision != "bf16" and not self._overflows(checkpoint, precision):
            return ir.DataType.FLOAT16
        if self.tensorrt is not None and _WITHOUT_BF16 in self.tensorrt.architectures:
            why = "use --precision fp16"
            if checkpoint.config.overflows_fp16:
                why = f"{checkpoint.config.family} overflows fp16; leave it out of --gpu-arch"
            raise ExportError(f"{checkpoint.name}: {_WITHOUT_BF16} has no bf16: {why}")
        return ir.DataType.BFLOAT16

    def note(self, checkpoint: Checkpoint) -> str | None:
        """Return what a user should know of what was chosen, if anything."""
        precision = self.resolve(checkpoint)
        asked = precision if self.precision == "auto" else self.precision
        if not self._overflows(checkpoint, asked):
            return None
        return (
            f"{checkpoint.name}: activations of {checkpoint.config.family} overflow fp16; "
            f"the engine computes in bf16"
        )

    def _overflows(self, checkpoint: Checkpoint, precision: Precision) -> bool:
        """Return whether a graph for TensorRT must not compute in fp16."""
        overflows = checkpoint.config.overflows_fp16 and self.tensorrt is not None
        return overflows and precision not in ("fp32", "bf16")


def identity(how: str, options: Options, content: str) -> str:
    """Return a hex key that differs wherever exporter, content (its digest) or options differ.

    Args:
        how: The precision, or ``optimum``.
        options: What to make of the checkpoint.
        content: The checkpoint's :func:`~rbee_export.checkpoint.digest`.
    """
    method = _METHODS.get(how, "")
    target = None if options.target == "cpu" else options.target
    text = f"{EXPORTER}\0{content}\0{how}{method}\0{options.model_ref}\0{target}"
    return hashlib.sha256(text.encode()).hexdigest()
