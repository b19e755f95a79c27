"""Counts and times one request for vectors, or for scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rbee_runtime.embedding import Embedded, EmbeddingEvent, EmbeddingFinished
from rbee_runtime.events import Failed
from rbee_service.faults import failure
from rbee_service.metrics import Metrics

if TYPE_CHECKING:
    from rbee_runtime.reranking.events import Scored


class EmbeddingMeter:
    """What one request leaves in the metrics; see :class:`rbee_service.metered.Meter`."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._submitted = clock()
        self._outputs = 0

    def note(self, event: EmbeddingEvent | Scored) -> None:
        """Count what an event tells of, now."""
        metrics, now = self._metrics, self._clock()
        match event:
            case Failed():
                self._end(failure(event.error).code.value, now)
            case EmbeddingFinished():
                metrics.items_in.inc(event.tokens)
                self._end(event.stop.value, now)
            case _:
                if self._outputs == 0:
                    metrics.first_output.observe(now - self._submitted)
                self._outputs += 1
                (metrics.vectors if isinstance(event, Embedded) else metrics.scores).inc()

    def _end(self, outcome: str, now: float) -> None:
        self._metrics.inferences.labels(outcome).inc()
        self._metrics.whole.observe(now - self._submitted)
