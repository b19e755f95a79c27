"""What the HTTP layer asks of the thing that computes, e.g. a language model's engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
EventT_co = TypeVar("EventT_co", covariant=True)


class BackendStatus(Protocol):
    """A snapshot of how busy and how well a backend is.

    Attributes:
        slots_total: Requests it can work on at once.
        slots_available: How many more it would start right now.
        queued: Requests that wait for a slot.
        queue_total: Requests that may wait for one at a time.
        healthy: Whether it still works.
        fault: Why it does not.
    """

    @property
    def slots_total(self) -> int: ...  # noqa: D102
    @property
    def slots_available(self) -> int: ...  # noqa: D102
    @property
    def queued(self) -> int: ...  # noqa: D102
    @property
    def queue_total(self) -> int: ...  # noqa: D102
    @property
    def healthy(self) -> bool: ...  # noqa: D102
    @property
    def fault(self) -> str | None: ...  # noqa: D102


class MemoryUse(Protocol):
    """What a backend holds in memory.

    Attributes:
        total: Bytes, of weights, cache and workspace together.
    """

    @property
    def total(self) -> int: ...  # noqa: D102


class InferenceBackend(Protocol[RequestT_contra, EventT_co]):
    """Computes requests on a thread of its own and tells about each through a sink.

    Every method may be called from any thread.
    """

    def submit(self, request: RequestT_contra, sink: Callable[[EventT_co], None]) -> None:
        """Accept a request; its events go to ``sink``, from the backend's thread.

        Raises:
            InvalidRequest: It can never be served.
            QueueFull: Not now.
            EngineClosed: Not any more.
        """

    def cancel(self, request_id: str) -> bool:
        """End a live request soon; its last event says so. False if there is none of that name."""

    def status(self) -> BackendStatus:
        """Return how busy and how well it is."""

    def memory(self) -> MemoryUse:
        """Return what it holds in memory."""

    def close(self) -> None:
        """End what is live and free everything; idempotent, may block for a step."""
