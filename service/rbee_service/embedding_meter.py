"""Counts and times one request for vectors."""

from __future__ import annotations

from collections.abc import Callable

from rbee_runtime.embedding import Embedded, EmbeddingEvent, EmbeddingFinished
from rbee_runtime.events import Failed
from rbee_service.faults import failure
from rbee_service.metrics import Metrics


class EmbeddingMeter:
    """What one request leaves in the metrics; see :class:`rbee_service.metered.Meter`."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._submitted = clock()
        self._vectors = 0

    def note(self, event: EmbeddingEvent) -> None:
        """Count what an event tells of, now."""
        metrics, now = self._metrics, self._clock()
        match event:
            case Embedded():
                if self._vectors == 0:
                    metrics.first_output.observe(now - self._submitted)
                self._vectors += 1
                metrics.vectors.inc()
            case EmbeddingFinished():
                metrics.items_in.inc(event.tokens)
                self._end(event.stop.value, now)
            case Failed():
                self._end(failure(event.error).code.value, now)

    def _end(self, outcome: str, now: float) -> None:
        self._metrics.inferences.labels(outcome).inc()
        self._metrics.whole.observe(now - self._submitted)
