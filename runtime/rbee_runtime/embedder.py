"""A model of embeddings at one's service."""

from __future__ import annotations

import itertools
import queue
import uuid
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.artifact import EmbedderArtifact, EmbedderManifest
from rbee_runtime.embedding.encoder import Encoder
from rbee_runtime.embedding.events import Embedded, EmbeddingEvent, EmbeddingFinished
from rbee_runtime.embedding.loop import Sink
from rbee_runtime.embedding.packer import Text
from rbee_runtime.embedding.request import MOST_INPUTS, EmbeddingRequest
from rbee_runtime.errors import EngineClosed, InvalidRequest
from rbee_runtime.events import StopReason
from rbee_runtime.text_model import DEFAULT_QUEUE, TextModel
from rbee_runtime.tokenizer import Tokenizer
from rbee_runtime.watchdog import DEFAULT_STEP_LIMIT


class Embedder(TextModel[Tokenizer]):
    """Embeds texts with one model, many requests together.

        with Embedder.load(Path("artifacts/model")) as embedder:
            vectors = embedder.embed(["A bee", "A hive"])

    Every method may be called from any thread.

    Attributes:
        manifest: The artifact's manifest.
        dim: Width of a vector.
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
        super().__init__(artifact, tokenizer, encoder, max_queue, step_limit=step_limit)
        self.manifest: EmbedderManifest = artifact.manifest
        self.dim = artifact.manifest.embedding.dim

    @classmethod
    def open_artifact(cls, path: Path) -> EmbedderArtifact:
        """See :class:`~rbee_runtime.text_model.TextModel`."""
        return EmbedderArtifact.open(path)

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
