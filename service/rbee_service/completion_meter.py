"""Counts and times one completion."""

from __future__ import annotations

from collections.abc import Callable

from rbee_runtime.events import Event, Failed, Finished, Piece, Started
from rbee_service.faults import failure
from rbee_service.metrics import Metrics


class CompletionMeter:
    """What one completion leaves in the metrics; see :class:`rbee_service.metered.Meter`."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._submitted = clock()
        self._last: float | None = None

    def note(self, event: Event) -> None:
        """Count what an event tells of, now."""
        metrics, now = self._metrics, self._clock()
        match event:
            case Started():
                pass
            case Piece():
                if self._last is None:
                    metrics.first_output.observe(now - self._submitted)
                else:
                    metrics.between_outputs.observe(now - self._last)
                self._last = now
            case Finished():
                metrics.items_in.inc(event.prompt_tokens)
                metrics.items_reused.inc(event.reused_tokens)
                metrics.items_out.inc(event.completion_tokens)
                metrics.drafted.inc(event.drafted_tokens)
                metrics.accepted.inc(event.accepted_tokens)
                self._end(event.reason.value, now)
            case Failed():
                self._end(failure(event.error).code.value, now)

    def _end(self, outcome: str, now: float) -> None:
        self._metrics.inferences.labels(outcome).inc()
        self._metrics.whole.observe(now - self._submitted)
