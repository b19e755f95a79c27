"""The thread that turns the crank: requests in, events out. The only room that knows time."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rbee_runtime.artifact import Artifact, Manifest
from rbee_runtime.backend import Backend, open_backend
from rbee_runtime.errors import (
    ContextOverflow,
    DeadlineExceeded,
    EngineClosed,
    InvalidRequest,
    RuntimeFault,
)
from rbee_runtime.events import Event, Failed, Finished, Piece, Started, StopReason
from rbee_runtime.memory import MemoryUse, resident_bytes
from rbee_runtime.request import Request, SamplingParams
from rbee_runtime.sampling import sample
from rbee_runtime.scheduler import Scheduler
from rbee_runtime.sequence import Phase, Sequence
from rbee_runtime.status import EngineStatus, LoadProgress
from rbee_runtime.step import Step
from rbee_runtime.tokenizer import Tokenizer

PREFILL_CHUNK = 256
"""Prompt tokens a step: enough to keep the matrix products busy, few enough to stay responsive."""

Sink = Callable[[Event], None]
"""Takes a request's events, on the engine's thread: it must return at once and raise nothing."""


@dataclass(slots=True)
class _Live:
    """A request inside the engine: its sequence, where its events go, and its times."""

    sequence: Sequence
    sink: Sink
    started: float = 0.0
    first_token: float = 0.0


class Engine:
    """Serves completions of one model.

        with Engine.load(Path("artifacts/model")) as engine:
            for text in engine.generate("Once upon a time", max_tokens=64):
                print(text, end="", flush=True)

    Every method may be called from any thread.

    Attributes:
        manifest: The artifact's manifest.
        tokenizer: The model's tokenizer.
        context_length: Positions a request can use, prompt and completion together.
    """

    def __init__(
        self, artifact: Artifact, tokenizer: Tokenizer, backend: Backend, max_queue: int
    ) -> None:
        self.manifest: Manifest = artifact.manifest
        self.tokenizer = tokenizer
        self.context_length = backend.capacity
        self._weight_bytes = artifact.weight_bytes
        self._eos = frozenset(artifact.manifest.eos_token_ids)
        self._backend = backend
        # Everything below is guarded by the condition's lock, except that only the engine's thread
        # touches a running sequence.
        self._work = threading.Condition()
        self._scheduler = Scheduler(backend.slots, max_queue, PREFILL_CHUNK)
        self._live: dict[str, _Live] = {}
        self._cancelled: set[str] = set()
        self._closing = False
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._run, name="rbee-engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        backend: str | None = None,
        device: int = 0,
        slots: int = 1,
        max_queue: int = 64,
        progress: Callable[[LoadProgress], None] | None = None,
    ) -> Self:
        """Verify an artifact, open it on a backend, and answer a warm-up token. Blocks for seconds.

        Args:
            path: The artifact's directory.
            backend: ``cpu``, ``cuda``, ``tensorrt``, or ``None`` for the best that works here.
            device: Device index of the backend.
            slots: Requests served at a time.
            max_queue: Requests that may wait beyond those.
            progress: Called as loading goes on, on this thread.

        Raises:
            ArtifactError: The artifact is missing, damaged, or cannot be loaded.
            DeviceError: The backend or device is not to be had here.
            OutOfMemory: The model or its cache does not fit.
        """
        artifact = Artifact.open(path)
        manifest = artifact.manifest
        layers = manifest.shapes.layers

        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(LoadProgress("loading_to_vram", done * layers // total, layers, done))

        artifact.verify(report)
        tokenizer = Tokenizer.open(
            artifact.file("tokenizer"),
            manifest.chat_template,
            manifest.bos_token_id,
            manifest.eos_token_ids[0] if manifest.eos_token_ids else None,
        )
        opened = open_backend(artifact, backend, device, slots)
        for slot in range(opened.slots):
            opened.run(Step(slot, 0, [0, 0]))
            opened.run(Step(slot, 2, [0]))
        engine = cls(artifact, tokenizer, opened, max_queue)
        if progress is not None:
            progress(LoadProgress("ready", layers, layers, artifact.weight_bytes))
        return engine

    @property
    def backend_name(self) -> str:
        """``cpu``, ``cuda`` or ``tensorrt``."""
        return self._backend.name

    def submit(self, request: Request, sink: Sink) -> None:
        """Queue a request, whose events go to ``sink``. Returns at once.

        Raises:
            InvalidRequest: Its prompt is empty or not of this model, or its id is already in use.
            ContextOverflow: Prompt and completion exceed the context length.
            QueueFull: The waiting line is at its limit.
            EngineClosed: The engine no longer takes requests.
        """
        prompt = self._encode(request)
        needed = len(prompt) + request.max_tokens
        if needed > self.context_length:
            raise ContextOverflow(len(prompt), request.max_tokens, self.context_length)
        sequence = Sequence(request, prompt, self.tokenizer, self._eos)
        with self._work:
            if self._closing or self._fault is not None:
                raise EngineClosed(self._fault or "the engine has been closed")
            if request.request_id in self._live:
                raise InvalidRequest(
                    "request_id", f"{request.request_id!r} is already being served"
                )
            self._scheduler.add(sequence)
            self._live[request.request_id] = _Live(sequence, sink)
            self._work.notify()

    def cancel(self, request_id: str) -> bool:
        """Have a live request finish as ``CANCELLED`` before its next step; say if there is one."""
        with self._work:
            if request_id not in self._live:
                return False
            self._cancelled.add(request_id)
            self._work.notify()
            return True

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = 256,
        sampling: SamplingParams | None = None,
        stop: tuple[str, ...] = (),
    ) -> Iterator[str]:
        """Yield a completion's text as it comes. Leaving the loop early cancels the request.

        Raises:
            RuntimeFault: As :meth:`submit`, or what the request failed with.
        """
        params = SamplingParams() if sampling is None else sampling
        request_id = f"generate-{uuid.uuid4().hex}"
        for event in self.stream(Request(request_id, prompt, max_tokens, params, stop)):
            if isinstance(event, Piece):
                yield event.text

    def stream(self, request: Request) -> Iterator[Started | Piece | Finished]:
        """Yield a request's events, ``Finished`` last. Leaving the loop early cancels the request.

        Raises:
            RuntimeFault: As :meth:`submit`, or what the request failed with.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.submit(request, events.put)
        try:
            while True:
                event = events.get()
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.cancel(request.request_id)

    def status(self) -> EngineStatus:
        """Return what the engine is doing."""
        with self._work:
            return EngineStatus(
                slots_total=self._scheduler.slots,
                slots_available=self._scheduler.slots_available,
                queued=self._scheduler.queued,
                healthy=self._fault is None and not self._closing,
                fault=self._fault,
            )

    def memory(self) -> MemoryUse:
        """Return the memory held."""
        total = resident_bytes()
        return MemoryUse(
            weights=self._weight_bytes,
            cache=self._backend.cache_bytes,
            workspace=max(0, total - self._weight_bytes),
            total=total,
        )

    def close(self) -> None:
        """Finish every live request as ``CANCELLED`` and stop. May be called more than once."""
        with self._work:
            self._closing = True
            self._work.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _encode(self, request: Request) -> list[int]:
        if isinstance(request.prompt, str):
            prompt = self.tokenizer.encode(request.prompt)
        else:
            prompt = list(request.prompt)
        if not prompt:
            raise InvalidRequest("prompt", "prompt has no tokens")
        # A tokenizer may know more tokens than the model: text can hold unknown ones, too.
        vocab = self.manifest.shapes.vocab
        if min(prompt) < 0 or max(prompt) >= vocab:
            raise InvalidRequest("prompt", f"prompt has token ids outside 0..{vocab - 1}")
        return prompt

    # --- below: the engine's thread ---

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # whatever it is, no caller may be left waiting
            self._fail_all(error)
            raise

    def _turn(self) -> bool:
        """Wait for work and run one step of it; return ``False`` when the engine closes."""
        with self._work:
            self._work.wait_for(lambda: self._live or self._closing)
            self._drop_unwanted()
            if self._closing:
                return False
            work = self._scheduler.next()
        if work is not None:
            sequence, step = work
            live = self._live[sequence.request.request_id]
            if step.past == 0 and sequence.phase is Phase.PREFILL:
                live.started = time.monotonic()
                live.sink(Started(len(sequence.prompt), sequence.sampler.seed))
            try:
                self._perform(live, step)
            except RuntimeFault as error:
                self._end(live, Failed(error))
        return True

    def _perform(self, live: _Live, step: Step) -> None:
        sequence = live.sequence
        logits = self._backend.run(step)
        if not sequence.advance(len(step.tokens)):
            return
        (token,) = sample(logits, [sequence.sampler])
        if live.first_token == 0.0:
            live.first_token = time.monotonic()
        text = sequence.accept(token)
        if text:
            live.sink(Piece(text, len(sequence.tokens)))
        if sequence.phase is Phase.FINISHED:
            self._end(live, self._finished(live))

    def _drop_unwanted(self) -> None:
        """End what was cancelled or is too late. The lock is held."""
        now = time.monotonic()
        for request_id, live in list(self._live.items()):
            deadline = live.sequence.request.deadline
            if self._closing or request_id in self._cancelled:
                text = live.sequence.finish(StopReason.CANCELLED)
                if text:
                    live.sink(Piece(text, len(live.sequence.tokens)))
                self._end(live, self._finished(live))
            elif deadline is not None and now >= deadline:
                self._end(live, Failed(DeadlineExceeded("the request's deadline has passed")))

    def _finished(self, live: _Live) -> Finished:
        sequence, now = live.sequence, time.monotonic()
        assert sequence.stop_reason is not None
        started = live.started or now
        first_token = live.first_token or now
        return Finished(
            reason=sequence.stop_reason,
            stop_sequence=sequence.stop_sequence,
            prompt_tokens=len(sequence.prompt),
            completion_tokens=len(sequence.tokens),
            prefill_seconds=first_token - started,
            decode_seconds=now - first_token,
        )

    def _end(self, live: _Live, event: Finished | Failed) -> None:
        """Free what a request holds, then say that it ended."""
        request_id = live.sequence.request.request_id
        with self._work:
            self._scheduler.remove(live.sequence)
            self._live.pop(request_id, None)
            self._cancelled.discard(request_id)
        live.sink(event)

    def _fail_all(self, error: BaseException) -> None:
        with self._work:
            self._fault = f"the engine stopped: {type(error).__name__}: {error}"
            live = list(self._live.values())
            self._live.clear()
        for one in live:
            one.sink(Failed(EngineClosed(self._fault)))
