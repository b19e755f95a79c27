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
    STOPPED = auto()


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
        """Take no more work; what runs goes on."""
        self._phase = Phase.STOPPING

    def end(self) -> None:
        """Nothing runs any more."""
        self._phase = Phase.STOPPED

    def _stops(self) -> bool:
        return self._phase in {Phase.STOPPING, Phase.STOPPED}

    def _is_over(self) -> bool:
        if self._backend is None:
            return self._stops()
        return self._phase is Phase.STOPPED or not self._backend.status().healthy

    def backend(self) -> InferenceBackend[RequestT, EventT]:
        """Return the backend for a new request.

        Raises:
            ApiError: The worker is loading or stopping.
        """
        if self._stops():
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
        if self._is_over():
            return {"ready": False, "state": "error"}
        if self._backend is None:
            return {"ready": False, "state": "loading", "progress_url": "/v1/loading/progress"}
        status = self._backend.status()
        available = 0 if self._stops() else status.slots_available
        return {
            "ready": not self._stops(),
            "state": "busy" if available < status.slots_total else "idle",
            "model_loaded": True,
            "slots_total": status.slots_total,
            "slots_available": available,
        }

    def hive_status(self) -> Literal["starting", "ready", "busy", "stopped"]:
        """Return the status a heartbeat carries; ``busy`` means that no slot is free.

        While running streams are given time to finish, none is: it says ``stopped`` once, last.
        """
        if self._is_over():
            return "stopped"
        if self._backend is None:
            return "starting"
        return "ready" if self._backend.status().slots_available and not self._stops() else "busy"
