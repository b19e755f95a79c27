"""Who the worker is, in the words of a worker heartbeat."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, Literal

from rbee_service import __version__

IMPLEMENTATION: Final = "onnx-worker-rbee"


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """The ``worker`` object of a heartbeat; its fields are the JSON's keys, in order.

    Attributes:
        id: Name of the worker.
        model_id: Reference of its model.
        device: ``GPU-0`` or ``CPU-0``.
        port: Where it listens.
        status: What it is doing.
        implementation: Kind of worker.
        version: Of the worker.
    """

    id: str
    model_id: str
    device: str
    port: int
    status: Literal["starting", "ready", "busy", "stopped"]
    implementation: str = IMPLEMENTATION
    version: str = __version__

    def body(self) -> dict[str, object]:
        """Return the JSON object."""
        return asdict(self)


def device_name(backend: str | None, index: int) -> str:
    """Return the device's name, given the backend that runs on it."""
    return f"GPU-{index}" if backend in {"cuda", "tensorrt"} else "CPU-0"
