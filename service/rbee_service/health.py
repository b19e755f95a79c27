"""Where the worker stands, and how that is told to a hive and to clients."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, Literal, TypeVar

from rbee_service.backend import InferenceBackend
from rbee_service.errors import ApiError, ErrorCode

RequestT = TypeVar("RequestT")
EventT = TypeVar("EventT")


class Phase(Enum):
    """Stations of a worker's life, in order."""

    LOADING = auto()
    READY = auto()
    STOPPING = auto()


@dataclass(frozen=True, slots=True)
class Health:
    """Answer of the health routes.

    Attributes:
        healthy: Whether the worker works, or is still on its way to.
        vram_bytes: Bytes the model, its cache and its workspace hold; 0 before it is loaded.
    """

    healthy: bool
    vram_bytes: int


class WorkerState(Generic[RequestT, EventT]):
    """The one place that knows whether there is a backend and whether it takes work."""

    def __init__(self) -> None:
        self._backend: InferenceBackend[RequestT, EventT] | None = None
        self._model = ""
        self._phase = Phase.LOADING

    @property
    def phase(self) -> Phase:
        """Where the worker stands."""
        return self._phase

    @property
    def loaded(self) -> bool:
        """Whether the model has been loaded."""
        return self._backend is not None

    @property
    def model(self) -> str:
        """Reference of the loaded model."""
        return self._model

    def serve(self, backend: InferenceBackend[RequestT, EventT], model: str) -> None:
        """Take ``backend`` into service; without effect on a worker that is stopping."""
        self._backend = backend
        self._model = model
        if self._phase is Phase.LOADING:
            self._phase = Phase.READY

    def stop(self) -> None:
        """Take no more work."""
        self._phase = Phase.STOPPING

    def backend(self) -> InferenceBackend[RequestT, EventT]:
        """Return the backend for a new request.

        Raises:
            ApiError: The worker is loading or stopping.
        """
        if self._phase is Phase.STOPPING:
            raise ApiError(
                ErrorCode.INSUFFICIENT_RESOURCES, "the worker is stopping", retry_after=5
            )
        if self._backend is None:
            raise ApiError(
                ErrorCode.INSUFFICIENT_RESOURCES, "the model is still loading", retry_after=1
            )
        return self._backend

    def health(self) -> Health:
        """Return the answer of the health routes."""
        if self._backend is None:
            return Health(healthy=True, vram_bytes=0)
        return Health(self._backend.status().healthy, self._backend.memory().total)

    def readiness(self) -> dict[str, object]:
        """Return the JSON body of ``/v1/ready``."""
        if self._backend is None:
            return {"ready": False, "state": "loading", "progress_url": "/v1/loading/progress"}
        status = self._backend.status()
        if not status.healthy or self._phase is Phase.STOPPING:
            return {"ready": False, "state": "error"}
        busy = status.slots_available < status.slots_total
        return {
            "ready": True,
            "state": "busy" if busy else "idle",
            "model_loaded": True,
            "slots_total": status.slots_total,
            "slots_available": status.slots_available,
        }

    def hive_status(self) -> Literal["starting", "ready", "busy", "stopped"]:
        """Return the status a heartbeat carries; ``busy`` means that no slot is free."""
        if self._phase is Phase.STOPPING:
            return "stopped"
        if self._backend is None:
            return "starting"
        status = self._backend.status()
        if not status.healthy:
            return "stopped"
        return "ready" if status.slots_available else "busy"
