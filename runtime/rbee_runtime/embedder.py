"""A model of embeddings at one's service."""

from __future__ import annotations

import itertools
import queue
import uuid
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.artifact import EmbedderArtifact, EmbedderManifest
from rbee_runtime.backend import check_device
from rbee_runtime.embedding.encoder import Encoder
from rbee_runtime.embedding.events import Embedded, EmbeddingEvent, EmbeddingFinished
from rbee_runtime.embedding.loop import SLOTS, EmbeddingLoop, Sink
from rbee_runtime.embedding.packer import Packer, Text
from rbee_runtime.embedding.request import MOST_INPUTS, EmbeddingRequest
from rbee_runtime.errors import EngineClosed, InputTooLong, InvalidRequest, InvalidSetting
from rbee_runtime.events import Failed, StopReason
from rbee_runtime.loading import open_verified, report_ready
from rbee_runtime.memory import MemoryUse
from rbee_runtime.status import EngineStatus, LoadProgress
from rbee_runtime.tokenizer import Tokenizer
from rbee_runtime.watchdog import DEFAULT_STEP_LIMIT

DEFAULT_QUEUE = 64
"""Requests that may wait beyond those being served."""


class Embedder:
    """Embeds texts with one model, many requests together.

        with Embedder.load(Path("artifacts/model")) as embedder:
            vectors = embedder.embed(["A bee", "A hive"])

    Every method may be called from any thread.

    Attributes:
        manifest: The artifact's manifest.
        tokenizer: The model's tokenizer.
        dim: Width of a vector.
        context_length: Tokens of a text at most, special ones included.
    """

    def __init__(
        self,
        artifact: EmbedderArtifact,
        tokenizer: Tokenizer,
        encoder: Encoder,
        max_queue: int = DEFAULT_QUEUE,
        *,
        step_limit: float = DEFAULT_STEP_LIMIT,
    ) -> None:
        self.manifest: EmbedderManifest = artifact.manifest
        self.tokenizer = tokenizer
        self.dim = artifact.manifest.embedding.dim
        self.context_length = artifact.manifest.shapes.context_length
        self._encoder = encoder
        packer = Packer(SLOTS + max_queue)
        self._loop = EmbeddingLoop(encoder, packer, step_limit)
        # The thread would keep a forgotten embedder's model in memory.
        weakref.finalize(self, self._loop.begin_to_close).atexit = False

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        backend: str | None = None,
        device: int = 0,
        max_queue: int = DEFAULT_QUEUE,
        progress: Callable[[LoadProgress], None] | None = None,
    ) -> Self:
        """Verify an artifact, open it on a backend, and embed a text to warm up.

        Args:
            path: The artifact's directory.
            backend: ``cpu``, ``cuda``, or ``None`` for the best that works here.
            device: Device index of the backend.
            max_queue: Requests that may wait beyond those being served.
            progress: Called as loading goes on, on any thread.

        Raises:
            ArtifactError: The artifact is missing, damaged, of a language model, or cannot be
                loaded.
            DeviceError: The backend or device is not to be had here.
            OutOfMemory: The model does not fit.
            InvalidSetting: A number is out of its range, or the backend's name is not known.
        """
        if max_queue < 0:
            raise InvalidSetting("max_queue must be at least 0")
        check_device(backend, device)
        artifact = EmbedderArtifact.open(Path(path))

        def open_it() -> tuple[Tokenizer, Encoder]:
            tokenizer = Tokenizer.open(artifact.file("tokenizer"), None, None, None)
            return tokenizer, Encoder.open(artifact, backend, device)

        tokenizer, encoder = open_verified(artifact, open_it, progress)
        embedder = cls(artifact, tokenizer, encoder, max_queue)
        try:
            embedder._loop.run(encoder.warm_up)
        except BaseException:
            embedder.close()
            raise
        report_ready(artifact, progress)
        return embedder

    @property
    def backend_name(self) -> str:
        """``cpu`` or ``cuda``."""
        return self._encoder.name

    def submit(self, request: EmbeddingRequest, sink: Sink) -> None:
        """Queue a request, whose events go to ``sink``. Returns once its texts are tokenized.

        Raises:
            InvalidRequest: An input is not of this model, or the request's id is already in use.
            ContextOverflow: An input exceeds the context length.
            QueueFull: The waiting line is at its limit.
            EngineClosed: The embedder no longer takes requests.
        """
        texts = self._read(request.request_id, request.inputs, request.called)
        self._loop.submit(request.request_id, request.deadline, texts, sink)

    def cancel(self, request_id: str) -> bool:
        """Have a live request finish as ``CANCELLED`` before its next step; say if there is one."""
        return self._loop.cancel(request_id)

    def embed(self, texts: Sequence[str], *, prompt_name: str | None = None) -> NDArray[np.float32]:
        """Return the vectors of texts, however many, in their order: ``float32[texts, dim]``.

        Args:
            texts: What to embed.
            prompt_name: Which of the model's prompts comes before each, ``query`` for instance;
                ``None`` for the one that always does, if any.

        Raises:
            RuntimeFault: As :meth:`submit`, or what embedding them failed with: ``EngineClosed``
                if the embedder is closed before the last vector.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        for number, vector in enumerate(self.embed_each(texts, prompt_name=prompt_name)):
            vectors[number] = vector
        return vectors

    def embed_each(
        self, texts: Iterable[str], *, prompt_name: str | None = None
    ) -> Generator[NDArray[np.float32]]:
        """Yield the vectors of texts, ``float32[dim]`` each, in their order and as they are done.

        Of texts, and of vectors that nobody has taken, no more than 2,048 are in memory. Leaving
        the loop early cancels the rest.

        Args:
            texts: What to embed; may come as they are needed.
            prompt_name: See :meth:`embed`.

        Raises:
            RuntimeFault: As :meth:`embed`, before any vector of the 2,048 that the text is among.
        """
        if isinstance(texts, str):
            raise InvalidRequest("input", "input must be a list of texts, not a text")
        prompt = self._prompt(prompt_name)
        coming = iter(texts)
        first = 0
        while some := tuple(itertools.islice(coming, MOST_INPUTS)):
            many = first > 0 or len(some) > 1
            request_id = f"embed-{uuid.uuid4().hex}"
            read = self._read(request_id, some, first=first, many=many, prompt=prompt)
            heard: queue.SimpleQueue[EmbeddingEvent] = queue.SimpleQueue()
            try:
                self._loop.serve(request_id, read, heard.put)
                for event in self._events(heard):
                    if isinstance(event, Embedded):
                        yield event.vector
                    elif event.stop is StopReason.CANCELLED:
                        raise EngineClosed("the embedder was closed before the last vector")
            finally:
                self.cancel(request_id)
            first += len(some)

    def stream(self, request: EmbeddingRequest) -> Generator[Embedded | EmbeddingFinished]:
        """Yield a request's events as they come. Leaving the loop early cancels the request.

        Raises:
            RuntimeFault: As :meth:`submit`, or what the request failed with.
        """
        texts = self._read(request.request_id, request.inputs, request.called)
        heard: queue.SimpleQueue[EmbeddingEvent] = queue.SimpleQueue()
        self._loop.submit(request.request_id, request.deadline, texts, heard.put)
        try:
            yield from self._events(heard)
        finally:
            self.cancel(request.request_id)

    def status(self) -> EngineStatus:
        """Return what the embedder is doing."""
        return self._loop.status()

    def memory(self) -> MemoryUse:
        """Return the memory held."""
        total, weights = self._encoder.held(), self._encoder.weight_bytes
        return MemoryUse(
            weights=weights,
            cache=0,
            cache_reserved=0,
            workspace=max(0, total - weights),
            total=total,
        )

    def close(self) -> None:
        """Finish every live request as ``CANCELLED`` and stop. May be called more than once."""
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _events(
        self, heard: queue.SimpleQueue[EmbeddingEvent]
    ) -> Generator[Embedded | EmbeddingFinished]:
        """Yield a request's events to its end."""
        while True:
            event = heard.get()
            if isinstance(event, Failed):
                raise event.error
            yield event
            if isinstance(event, EmbeddingFinished):
                return

    def _read(
        self,
        request_id: str,
        inputs: Sequence[str | Sequence[int]],
        called: str = "input",
        *,
        first: int = 0,
        many: bool | None = None,
        prompt: str | None = None,
    ) -> list[Text]:
        """Tokenize inputs.

        Args:
            request_id: Whose they are.
            inputs: Texts or token ids.
            called: What they are called in an error.
            first: Number of the first one, in an error.
            many: Number them at all there; ``None`` where there are several.
            prompt: What comes before each; ``None`` for what always does.
        """
        numbered = len(inputs) > 1 if many is None else many
        names = [f"{called}[{first + i}]" if numbered else called for i in range(len(inputs))]
        for given, name in zip(inputs, names, strict=True):
            if not given:
                raise InvalidRequest(name, f"{name} must not be empty")
        if prompt is None:
            prompt = self._prompt(None)
        places = [i for i, given in enumerate(inputs) if isinstance(given, str)]
        try:
            encoded = self.tokenizer.encode_all(
                [f"{prompt}{inputs[i]}" for i in places], [names[i] for i in places]
            )
        except InvalidRequest as error:
            raise InvalidRequest(called, str(error)) from None
        ids = dict(zip(places, encoded, strict=True))
        return [
            Text(request_id, i, self._checked(ids.get(i, given), names[i]))
            for i, given in enumerate(inputs)
        ]

    def _prompt(self, name: str | None) -> str:
        """Return a prompt of the model by its name, or the one that comes before every text."""
        embedding = self.manifest.embedding
        if name is None:
            return embedding.prompt
        if name not in embedding.prompts:
            known = ", ".join(embedding.prompts) or "it has none"
            raise InvalidRequest(
                "prompt_name", f"prompt_name {name!r} is no prompt of the model: {known}"
            )
        return embedding.prompts[name]

    def _checked(self, ids: Sequence[Any], name: str) -> NDArray[np.int32]:
        """Return token ids that the model can run."""
        if not ids:
            raise InvalidRequest(name, f"{name} has no tokens")
        if len(ids) > self.context_length:
            raise InputTooLong(name, len(ids), self.context_length)
        vocab = self.manifest.shapes.vocab
        if min(ids) < 0 or max(ids) >= vocab:
            raise InvalidRequest(name, f"{name} has token ids outside 0..{vocab - 1}")
        return np.array(ids, np.int32)
