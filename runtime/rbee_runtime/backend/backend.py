"""The protocol between engine and backend, and the choice of one."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.artifact import Artifact
from rbee_runtime.errors import DeviceError
from rbee_runtime.memory import DEFAULT_BUDGET, Budget, budget_bytes, plan_cache
from rbee_runtime.step import PREFILL_CHUNK, Step
from rbee_runtime.transfer import Transfer


class Backend(Protocol):
    """A loaded model with its cache.

    Attributes:
        name: ``cpu``, ``cuda`` or ``tensorrt``.
        slots: Sequences its cache holds.
        capacity: Positions of each slot.
        blocks: Blocks its cache has beside the slots.
        cache_bytes: Bytes of the cache.
        cache_used: Of these, how many have been in use at most.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def slots(self) -> int: ...  # noqa: D102

    @property
    def capacity(self) -> int: ...  # noqa: D102

    @property
    def blocks(self) -> int: ...  # noqa: D102

    @property
    def cache_bytes(self) -> int: ...  # noqa: D102

    @property
    def cache_used(self) -> int: ...  # noqa: D102

    def run(self, step: Step) -> NDArray[np.float32]:
        """Run one step, filling the cache.

        Returns:
            Logits of each row's last token, ``float32[rows, vocab]``, valid until the next call
            and free to be overwritten.

        Raises:
            OutOfMemory: The device could not provide what the step needs.
            InferenceFailed: The provider failed otherwise.
        """
        ...

    def transfer(self, transfer: Transfer) -> None:
        """Make a copy within the cache."""
        ...


def open_backend(
    artifact: Artifact,
    name: str | None = None,
    device: int = 0,
    *,
    slots: int | None = None,
    context: int | None = None,
    chunk: int = PREFILL_CHUNK,
    budget: Budget = DEFAULT_BUDGET,
) -> Backend:
    """Load the model on the backend of this name, or on the best one that works here.

    Args:
        artifact: The model.
        name: ``cpu``, ``cuda``, ``tensorrt``, or ``None``.
        device: Index of the device.
        slots: Sequences to hold at a time; ``None`` for as many as fit, up to 16.
        context: Positions of each; ``None`` for the model's context, or what fits.
        chunk: Tokens of a step at most.
        budget: Memory of the cache; a share of what is free once the weights are loaded, or bytes.

    Raises:
        ArtifactError: The graph cannot be loaded.
        DeviceError: The backend or the device is not to be had here.
        OutOfMemory: The cache does not fit.
        InvalidSetting: A number is out of its range.
    """
    from rbee_runtime.backend.dynamic import DynamicBackend
    from rbee_runtime.backend.onnx import OnnxBackend
    from rbee_runtime.backend.session import open_session

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
    traced = manifest.dialect == "optimum"
    session = open_session(artifact.file("graph"))
    plan = plan_cache(
        manifest.cache,
        manifest.shapes.context_length,
        budget_bytes(budget),
        slots=slots,
        context=context,
        chunk=chunk,
        # A traced graph's past and present are two: beside the slots there is a spare region.
        spare=1 if traced else 0,
    )
    kind = DynamicBackend if traced else OnnxBackend
    return kind(artifact, session, plan)
