"""The protocol between engine and backend, and the choice of one."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.artifact import Artifact
from rbee_runtime.errors import DeviceError
from rbee_runtime.memory import plan_capacity
from rbee_runtime.step import Step


class Backend(Protocol):
    """A loaded model with its cache.

    Attributes:
        name: ``cpu``, ``cuda`` or ``tensorrt``.
        slots: Sequences its cache holds.
        capacity: Positions of each slot.
        cache_bytes: Bytes of the cache.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def slots(self) -> int: ...  # noqa: D102

    @property
    def capacity(self) -> int: ...  # noqa: D102

    @property
    def cache_bytes(self) -> int: ...  # noqa: D102

    def run(self, step: Step) -> NDArray[np.float32]:
        """Run one step, filling the cache.

        Returns:
            Logits of the step's last token, ``float32[1, vocab]``, valid until the next call and
            free to be overwritten.

        Raises:
            OutOfMemory: The device could not provide what the step needs.
            InferenceFailed: The provider failed otherwise.
        """
        ...


def open_backend(artifact: Artifact, name: str | None, device: int, slots: int) -> Backend:
    """Load the model on the backend of this name, or on the best one that works here.

    Raises:
        ArtifactError: The graph cannot be loaded.
        DeviceError: The backend or the device is not to be had here.
        OutOfMemory: The cache does not fit.
    """
    from rbee_runtime.backend.dynamic import DynamicBackend
    from rbee_runtime.backend.onnx import OnnxBackend

    if name not in (None, "cpu"):
        raise DeviceError(
            f"backend {name!r} does not run here yet: this version executes on the CPU; "
            "use --backend cpu"
        )
    if device != 0:
        raise DeviceError(f"device {device} does not exist: the CPU is device 0")
    manifest = artifact.manifest
    if manifest.precision == "bf16" or manifest.dialect == "standard":
        made = "bf16" if manifest.precision == "bf16" else "TensorRT"
        raise DeviceError(
            f"{artifact.path}: made for {made}, which no CPU provider runs; "
            "export it again with another --precision and without --target"
        )
    context_length = manifest.shapes.context_length
    if manifest.dialect == "optimum":
        # A step's past and present are two: beside the slots there is a spare region.
        capacity = plan_capacity(manifest.cache, context_length, slots + 1)
        return DynamicBackend(artifact, slots, capacity)
    return OnnxBackend(artifact, slots, plan_capacity(manifest.cache, context_length, slots))
