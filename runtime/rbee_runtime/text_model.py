"""A model that reads whole texts, at one's service: what embedders and rerankers have in common."""

from __future__ import annotations

import queue
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.backend import check_device
from rbee_runtime.embedding.encoder import Encoder
from rbee_runtime.embedding.events import Embedded, EmbeddingEvent, EmbeddingFinished
from rbee_runtime.embedding.loop import SLOTS, EmbeddingLoop
from rbee_runtime.embedding.packer import Packer
from rbee_runtime.errors import InputTooLong, InvalidRequest, InvalidSetting
from rbee_runtime.events import Failed
from rbee_runtime.loading import open_verified, report_ready
from rbee_runtime.memory import MemoryUse
from rbee_runtime.status import EngineStatus, LoadProgress
from rbee_runtime.tokenizer import Tokenizer
from rbee_runtime.watchdog import DEFAULT_STEP_LIMIT

if TYPE_CHECKING:
    from rbee_runtime.artifact import TextArtifact

DEFAULT_QUEUE = 64
"""Requests that may wait beyond those being served."""

TokenizerT = TypeVar("TokenizerT", bound=Tokenizer)


class TextModel(ABC, Generic[TokenizerT]):
    """Runs texts of many requests through one model together.

    Every method may be called from any thread.

    Attributes:
        tokenizer: The model's tokenizer.
        context_length: Tokens of a text at most, special ones included.
    """

    tokenizer_kind: ClassVar[type[Tokenizer]] = Tokenizer

    def __init__(
        self,
        artifact: TextArtifact,
        tokenizer: TokenizerT,
        encoder: Encoder,
        max_queue: int = DEFAULT_QUEUE,
        *,
        step_limit: float = DEFAULT_STEP_LIMIT,
    ) -> None:
        self.tokenizer = tokenizer
        self.context_length = artifact.manifest.shapes.context_length
        self._vocab = artifact.manifest.shapes.vocab
        self._encoder = encoder
        packer = Packer(SLOTS + max_queue)
        self._loop = EmbeddingLoop(encoder, packer, step_limit)
        # The thread would keep a forgotten model in memory.
        weakref.finalize(self, self._loop.begin_to_close).atexit = False

    @classmethod
    @abstractmethod
    def open_artifact(cls, path: Path) -> TextArtifact:
        """Open an artifact of this kind of model.

        Raises:
            ArtifactError: It is missing, damaged, or of another kind.
        """

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
        """Verify an artifact, open it on a backend, and run a text to warm up.

        Args:
            path: The artifact's directory.
            backend: ``cpu``, ``cuda``, or ``None`` for the best that works here.
            device: Device index of the backend.
            max_queue: Requests that may wait beyond those being served.
            progress: Called as loading goes on, on any thread.

        Raises:
            ArtifactError: The artifact is missing, damaged, of another kind of model, or cannot be
                loaded.
            DeviceError: The backend or device is not to be had here.
            OutOfMemory: The model does not fit.
            InvalidSetting: A number is out of its range, or the backend's name is not known.
        """
        if max_queue < 0:
            raise InvalidSetting("max_queue must be at least 0")
        check_device(backend, device)
        artifact = cls.open_artifact(Path(path))

        def open_it() -> tuple[Any, Encoder]:
            tokenizer = cls.tokenizer_kind.open(artifact.file("tokenizer"), None, None, None)
            return tokenizer, Encoder.open(artifact, backend, device)

        tokenizer, encoder = open_verified(artifact, open_it, progress)
        model = cls(artifact, tokenizer, encoder, max_queue)
        try:
            model._loop.run(encoder.warm_up)
        except BaseException:
            model.close()
            raise
        report_ready(artifact, progress)
        return model

    @property
    def backend_name(self) -> str:
        """``cpu`` or ``cuda``."""
        return self._encoder.name

    def cancel(self, request_id: str) -> bool:
        """Have a live request finish as ``CANCELLED`` before its next step; say if there is one."""
        return self._loop.cancel(request_id)

    def status(self) -> EngineStatus:
        """Return what the model is doing."""
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

    def _checked(self, ids: Sequence[Any], name: str) -> NDArray[np.int32]:
        """Return token ids that the model can run."""
        if not ids:
            raise InvalidRequest(name, f"{name} has no tokens")
        if len(ids) > self.context_length:
            raise InputTooLong(name, len(ids), self.context_length)
        if min(ids) < 0 or max(ids) >= self._vocab:
            raise InvalidRequest(name, f"{name} has token ids outside 0..{self._vocab - 1}")
        return np.array(ids, np.int32)
