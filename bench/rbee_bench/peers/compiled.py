"""Our own: an artifact on the runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version

from rbee_bench.peers.peer import Logits, Spec, Timing, complete_steps, score_steps
from rbee_runtime import GREEDY, Artifact, Engine, Finished, Request
from rbee_runtime.backend import Backend, open_backend
from rbee_runtime.step import Step


class CompiledPeer:
    """Times through the engine, as a worker would; completes and scores below it, on the backend.

    The engine gives text, not tokens, and ends at an end of text.

    Attributes:
        version: See :class:`~rbee_bench.peers.peer.Peer`.
    """

    def __init__(self, spec: Spec) -> None:
        self.version = f"onnx-worker-rbee {version('onnx-worker-rbee')}"
        self._artifact = Artifact.open(spec.model)

    @cached_property
    def _engine(self) -> Engine:
        return Engine.load(self._artifact.path)

    @cached_property
    def _stepper(self) -> _BackendStepper:
        return _BackendStepper(open_backend(self._artifact, slots=1))

    def decode(self, prompt: Sequence[int], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        *_, finished = self._engine.stream(Request("bench", prompt, tokens, GREEDY))
        assert isinstance(finished, Finished)  # the last event of a stream that raised nothing
        return Timing(finished.completion_tokens - 1, finished.decode_seconds)

    def complete(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return complete_steps(self._stepper, prompt, tokens)

    def score(self, ids: Sequence[int]) -> Iterator[Logits]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return score_steps(self._stepper, ids)


class _BackendStepper:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._past = 0

    def begin(self, prompt: Sequence[int]) -> Logits:
        self._past = 0
        return self._run(prompt)

    def step(self, token: int) -> Logits:
        return self._run([token])

    def _run(self, tokens: Sequence[int]) -> Logits:
        (logits,) = self._backend.run(Step.of(0, self._past, tokens))
        self._past += len(tokens)
        row: Logits = logits
        return row
