"""What a worker counts and times, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rbee_service.backend import BackendStatus

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# From a token of a small model on a GPU to a long prompt on a CPU, in seconds.
_STEP_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_WHOLE_BUCKETS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """The instruments of one worker, in a registry of their own; any thread may use them.

    Attributes:
        requests: Answers by ``route`` and HTTP ``status``. A stream counts when it begins.
        inferences: Inferences by ``outcome``: how they ended, or ``REFUSED``.
        first_output: Seconds from submission to the first output.
        between_outputs: Seconds from one output to the next.
        whole: Seconds from submission to the end.
        items_in: Prompt tokens, or items of another kind of input.
        items_reused: Of these, how many had been computed before.
        items_out: Tokens generated.
        callbacks: Ready callbacks by ``outcome``, each try counted.
        heartbeats: Heartbeats by ``outcome``.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter(
            "rbee_http_requests", "HTTP requests answered.", "route", "status"
        )
        self.inferences = self._counter("rbee_inferences", "Inferences ended.", "outcome")
        self.first_output = self._histogram(
            "rbee_time_to_first_token_seconds", "Submission to first output.", _WHOLE_BUCKETS
        )
        self.between_outputs = self._histogram(
            "rbee_inter_token_seconds", "One output to the next.", _STEP_BUCKETS
        )
        self.whole = self._histogram("rbee_inference_seconds", "Submission to end.", _WHOLE_BUCKETS)
        self.items_in = self._counter("rbee_prompt_tokens", "Prompt tokens of ended inferences.")
        self.items_reused = self._counter(
            "rbee_reused_tokens", "Prompt tokens that an earlier prompt had computed."
        )
        self.items_out = self._counter("rbee_generated_tokens", "Tokens generated.")
        self.drafted = self._counter(
            "rbee_drafted_tokens", "Guesses of tokens that were run along, of ended inferences."
        )
        self.accepted = self._counter("rbee_accepted_tokens", "Of these, those that came true.")
        self.callbacks = self._counter("rbee_callbacks", "Tries of the ready callback.", "outcome")
        self.heartbeats = self._counter("rbee_heartbeats", "Heartbeats sent.", "outcome")

    @cached_property
    def vectors(self) -> Counter:
        """Vectors of texts; there from the first one on, and never where none is made."""
        return self._counter("rbee_vectors", "Vectors of texts.")

    @cached_property
    def scores(self) -> Counter:
        """Scores of documents; there from the first one on, and never where none is made."""
        return self._counter("rbee_scores", "Scores of documents.")

    def watch(self, gauges: Callable[[], Iterator[Metric]]) -> None:
        """Ask for ``gauges`` whenever the metrics are read."""
        self._registry.register(_Asked(gauges))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self._registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, meaning, buckets=buckets, registry=self._registry)


class _Asked(Collector):
    def __init__(self, gauges: Callable[[], Iterator[Metric]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        return self._gauges()

    def describe(self) -> list[Metric]:
        # Nothing is asked before there is a backend to answer.
        return []


def status_gauges(status: BackendStatus) -> Iterator[Metric]:
    """Yield how busy and how well a backend is."""
    yield gauge("rbee_slots", "Inferences that can be worked on at once.", status.slots_total)
    yield gauge("rbee_slots_available", "Slots that are free.", status.slots_available)
    yield gauge("rbee_queued", "Inferences that wait for a slot.", status.queued)
    yield gauge("rbee_healthy", "1 while the backend works.", float(status.healthy))


def gauge(name: str, meaning: str, value: float) -> Metric:
    """Return one number."""
    return GaugeMetricFamily(name, meaning, value=value)
