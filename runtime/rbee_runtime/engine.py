"""A model at one's service: what callers see of this package."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import asdict
from pathlib import Path
from typing import Literal, Self

from rbee_runtime.artifact import Artifact, Manifest
from rbee_runtime.backend import (
    Backend,
    CacheType,
    check_cache_type,
    check_device,
    open_backend,
)
from rbee_runtime.completion import Completion, complete_all, whole
from rbee_runtime.constraint import Constraint
from rbee_runtime.constraint.grammar import Grammars
from rbee_runtime.errors import ContextOverflow, InvalidRequest, InvalidSetting
from rbee_runtime.events import Finished, Piece, Started
from rbee_runtime.live import Sink
from rbee_runtime.loading import open_verified, report_ready
from rbee_runtime.loop import DecodeLoop
from rbee_runtime.memory import DEFAULT_BUDGET, Budget, CacheWish, MemoryUse, check_context
from rbee_runtime.prefix import PrefixIndex
from rbee_runtime.request import GREEDY, Request, SamplingParams
from rbee_runtime.scheduler import Scheduler
from rbee_runtime.sequence import Sequence as TokenSequence
from rbee_runtime.status import EngineStatus, LoadProgress
from rbee_runtime.step import MOST_DRAFTED, PREFILL_CHUNK
from rbee_runtime.streams import astream, stream
from rbee_runtime.tokenizer import Tokenizer
from rbee_runtime.watchdog import DEFAULT_STEP_LIMIT

DEFAULT_PREFILL_CHUNK = 256
"""Prompt tokens that may come between two tokens of running requests; mostly far fewer do."""

DEFAULT_QUEUE = 64
"""Requests that may wait beyond those being served."""


class Engine:
    """Serves completions of one model, many at a time.

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
        self,
        artifact: Artifact,
        tokenizer: Tokenizer,
        backend: Backend,
        max_queue: int = DEFAULT_QUEUE,
        max_prefill_chunk: int = DEFAULT_PREFILL_CHUNK,
        *,
        draft_tokens: int = MOST_DRAFTED,
        step_limit: float = DEFAULT_STEP_LIMIT,
    ) -> None:
        self.manifest: Manifest = artifact.manifest
        self.tokenizer = tokenizer
        self.context_length = backend.capacity
        self._eos = frozenset(artifact.manifest.eos_token_ids)
        self._grammars = Grammars(tokenizer, self.manifest.shapes.vocab, self._eos)
        self._backend = backend
        long_rope = artifact.manifest.long_rope
        scheduler = Scheduler(
            backend.slots,
            max_queue,
            max_prefill_chunk,
            PrefixIndex(backend.blocks, backend.snapshots),
            None if long_rope is None else long_rope.original_context,
        )
        self._loop = DecodeLoop(backend, scheduler, step_limit, draft_tokens=draft_tokens)
        # The thread would keep a forgotten engine's model in memory.
        weakref.finalize(self, self._loop.begin_to_close).atexit = False

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        backend: str | None = None,
        fallback: Literal["cuda"] | None = None,
        device: int = 0,
        slots: int | None = None,
        context_length: int | None = None,
        memory_budget: Budget = DEFAULT_BUDGET,
        cache_type: CacheType | None = None,
        max_queue: int = DEFAULT_QUEUE,
        max_prefill_chunk: int = DEFAULT_PREFILL_CHUNK,
        draft_tokens: int = MOST_DRAFTED,
        progress: Callable[[LoadProgress], None] | None = None,
    ) -> Self:
        """Verify an artifact, open it on a backend, and answer a warm-up token. Blocks for seconds.

        Args:
            path: The artifact's directory.
            backend: ``cpu``, ``cuda``, ``tensorrt``, or ``None`` for the best that works here.
            fallback: What to run on where ``tensorrt`` does not work; ``None`` for nothing.
            device: Device index of the backend.
            slots: Requests served at a time; ``None`` for as many as the budget holds, up to
                16, and on a GPU up to 64.
            context_length: Tokens a request can use, prompt and completion together; ``None`` for
                what the model was made for, or what the budget holds.
            memory_budget: Memory of the KV cache: a share of what is free once the weights are
                loaded (a float), or bytes (an int).
            cache_type: ``int8`` to keep keys and values in 8 bits, on the CPU with the native
                kernels: a position takes half the memory. ``None`` for 16 bits there.
            max_queue: Requests that may wait beyond those being served.
            max_prefill_chunk: Prompt tokens that may come between two tokens of running requests.
                As few do as take twice the time that such a token takes.
            draft_tokens: Guesses of what comes next that a step runs along at most, where they are
                likely enough to come true; 0 for none, up to 16. Completions are the same.
            progress: Called as loading goes on, on any thread.

        Raises:
            ArtifactError: The artifact is missing, damaged, or cannot be loaded.
            DeviceError: The backend or device is not to be had here, or no cache of 8 bits is.
            OutOfMemory: The model or its cache does not fit.
            InvalidSetting: A number is out of its range, or a name is not known: the backend's or
                the cache type's.
        """
        if max_queue < 0 or max_prefill_chunk < 1:
            raise InvalidSetting("max_queue must be at least 0 and max_prefill_chunk at least 1")
        if not 0 <= draft_tokens <= MOST_DRAFTED:
            raise InvalidSetting(f"draft_tokens must be from 0 to {MOST_DRAFTED}")
        # What can never be had is refused before gigabytes are read.
        check_device(backend, device)
        check_cache_type(cache_type)
        chunk = max(max_prefill_chunk, PREFILL_CHUNK)
        wish = CacheWish(slots, context_length, chunk, memory_budget)
        artifact = Artifact.open(Path(path))
        manifest = artifact.manifest
        check_context(context_length, manifest.shapes.context_length)

        def open_it() -> tuple[Tokenizer, Backend]:
            tokenizer = Tokenizer.open(
                artifact.file("tokenizer"),
                manifest.chat_template,
                manifest.bos_token_id,
                manifest.eos_token_ids[0] if manifest.eos_token_ids else None,
            )
            opened = open_backend(
                artifact,
                backend,
                device,
                fallback=fallback,
                cache_type=cache_type,
                **asdict(wish),
            )
            return tokenizer, opened

        tokenizer, opened = open_verified(artifact, open_it, progress)
        engine = cls(
            artifact, tokenizer, opened, max_queue, max_prefill_chunk, draft_tokens=draft_tokens
        )
        try:
            engine._loop.run(opened.warm_up)
        except BaseException:
            engine.close()
            raise
        report_ready(artifact, progress)
        return engine

    @property
    def backend_name(self) -> str:
        """``cpu``, ``cuda`` or ``tensorrt``."""
        return self._backend.name

    def submit(self, request: Request, sink: Sink) -> None:
        """Queue a request, whose events go to ``sink``.

        Returns at once; with a constraint, once that is compiled: mostly a few milliseconds, and
        some hundred more for the first one of all.

        Raises:
            InvalidRequest: Its prompt is empty or not of this model, its id is already in use, or
                its constraint cannot be enforced.
            ContextOverflow: Prompt and completion exceed the context length.
            QueueFull: The waiting line is at its limit, or that of constraints to be compiled.
            OutOfMemory: There is none to compile its constraint.
            EngineClosed: The engine no longer takes requests.
        """
        prompt = self._encode(request)
        asked = 1 if request.max_tokens is None else request.max_tokens
        length = len(prompt) + asked
        if length > self.context_length:
            raise ContextOverflow(len(prompt), asked, self.context_length)
        if request.max_tokens is None:
            length = self.context_length
        held_to = request.constraint
        grammar = None if held_to is None else self._grammars.compile(held_to)
        sequence = TokenSequence(
            request,
            prompt,
            length,
            self.tokenizer,
            self._eos,
            grammar=grammar,
            expected=self._expected(request),
        )
        self._loop.submit(sequence, sink)

    def cancel(self, request_id: str) -> bool:
        """Have a live request finish as ``CANCELLED`` before its next step; say if there is one."""
        return self._loop.cancel(request_id)

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int | None = 256,
        sampling: SamplingParams = GREEDY,
        stop: tuple[str, ...] = (),
        constraint: Constraint | None = None,
    ) -> Iterator[str]:
        """Yield a completion's text as it comes. Leaving the loop early cancels the request.

        Args:
            prompt: Text to continue, or a rendered chat.
            max_tokens: Upper bound on new tokens; ``None`` for as many as the context holds.
            sampling: How tokens are drawn; greedily, unless said otherwise.
            stop: Strings that end the completion.
            constraint: What the completion is held to, such as a :class:`JsonSchema`.

        Raises:
            RuntimeFault: As :meth:`submit`, or what the request failed with: ``EngineClosed`` if
                the engine is closed before the completion's end.
        """
        request = Request(_request_id(), prompt, max_tokens, sampling, stop, constraint=constraint)
        with closing(self.stream(request)) as events:
            for event in events:
                if isinstance(event, Piece):
                    yield event.text
                elif isinstance(event, Finished):
                    whole(event)

    async def agenerate(
        self,
        prompt: str,
        *,
        max_tokens: int | None = 256,
        sampling: SamplingParams = GREEDY,
        stop: tuple[str, ...] = (),
        constraint: Constraint | None = None,
    ) -> AsyncIterator[str]:
        """As :meth:`generate`, for ``async for``: the event loop is never held up."""
        request = Request(_request_id(), prompt, max_tokens, sampling, stop, constraint=constraint)
        async with aclosing(self.astream(request)) as events:
            async for event in events:
                if isinstance(event, Piece):
                    yield event.text
                elif isinstance(event, Finished):
                    whole(event)

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int | None = 256,
        sampling: SamplingParams = GREEDY,
        stop: tuple[str, ...] = (),
        constraint: Constraint | None = None,
        progress: bool = False,
    ) -> list[Completion]:
        """Complete prompts together and return the completions in their order.

        Args:
            prompts: Texts to continue.
            max_tokens: Upper bound on new tokens of each; ``None`` for as many as fit.
            sampling: How tokens are drawn. With a seed, every prompt gets the same one.
            stop: Strings that end a completion.
            constraint: What each is held to.
            progress: Show a bar on the terminal.

        Raises:
            RuntimeFault: As :meth:`submit`, or what the first request to fail failed with; the
                others are cancelled then.
        """
        if isinstance(prompts, str):
            raise InvalidRequest("prompts", "prompts must be a list of texts, not a text")
        requests = [
            Request(_request_id(), prompt, max_tokens, sampling, stop, constraint=constraint)
            for prompt in prompts
        ]
        # A worker that starts has no need of it.
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), disable=not progress) as bar:
            task = bar.add_task("completing", total=len(requests))
            return complete_all(self, requests, lambda: bar.advance(task))

    def stream(self, request: Request) -> Generator[Started | Piece | Finished]:
        """Yield a request's events, ``Finished`` last. Leaving the loop early cancels the request.

        Raises:
            RuntimeFault: As :meth:`submit`, or what the request failed with.
        """
        return stream(self, request)

    def astream(self, request: Request) -> AsyncGenerator[Started | Piece | Finished]:
        """As :meth:`stream`, for ``async for``: the event loop is never held up."""
        return astream(self, request)

    def status(self) -> EngineStatus:
        """Return what the engine is doing."""
        return self._loop.status()

    def memory(self) -> MemoryUse:
        """Return the memory held."""
        total, cache = self._backend.held(), self._backend.cache_used
        return MemoryUse(
            weights=self._backend.weight_bytes,
            cache=cache,
            cache_reserved=self._backend.cache_bytes,
            workspace=max(0, total - self._backend.weight_bytes - cache),
            total=total,
        )

    def close(self) -> None:
        """Finish every live request as ``CANCELLED`` and stop. May be called more than once."""
        self._loop.close()

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
        if any(not 0 <= token < vocab for token in request.sampling.logit_bias):
            raise InvalidRequest("logit_bias", f"logit_bias has token ids outside 0..{vocab - 1}")
        return prompt

    def _expected(self, request: Request) -> list[int]:
        """Return the tokens that the completion is expected to begin with."""
        if not (request.prediction and self._loop.guesses):
            return []
        ids = self.tokenizer.encode(request.prediction, "prediction")
        prefix = int(ids[:1] == [self.manifest.bos_token_id])
        # What only the tokenizer knows never comes, and could not be run.
        vocab = self.manifest.shapes.vocab
        return [i for i in ids[prefix:] if i < vocab][: self.context_length]


def _request_id() -> str:
    return f"generate-{uuid.uuid4().hex}"
