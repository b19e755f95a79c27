"""Brings a language model's engine into the service; the only place that knows the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rbee_runtime.artifact import Manifest
from rbee_runtime.events import Event
from rbee_runtime.request import Request
from rbee_service.backend import InferenceBackend, MemoryUse
from rbee_service.loading import LayerProgress
from rbee_service.options import Options


class ChatTokenizer(Protocol):
    """Knows how a model wants a chat written down."""

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the prompt that asks for the next message.

        Raises:
            InvalidRequest: The model has no chat template, or it rejects the messages.
        """


class CacheMemory(MemoryUse, Protocol):
    """What a language model holds in memory, in bytes.

    Attributes:
        weights: The model's weights.
        cache: What the KV cache has used at most.
        cache_reserved: What it may come to use.
        workspace: The rest.
    """

    @property
    def weights(self) -> int: ...  # noqa: D102
    @property
    def cache(self) -> int: ...  # noqa: D102
    @property
    def cache_reserved(self) -> int: ...  # noqa: D102
    @property
    def workspace(self) -> int: ...  # noqa: D102


class CompletionBackend(InferenceBackend[Request, Event], Protocol):
    """A backend that answers for one language model.

    Attributes:
        manifest: Of the model's artifact.
        backend_name: ``cpu``, ``cuda`` or ``tensorrt``.
        tokenizer: The model's.
    """

    @property
    def manifest(self) -> Manifest: ...  # noqa: D102
    @property
    def backend_name(self) -> str: ...  # noqa: D102
    @property
    def tokenizer(self) -> ChatTokenizer: ...  # noqa: D102

    def memory(self) -> CacheMemory:
        """Return what it holds in memory."""


class Loader(Protocol):
    """Loads the artifact of a language model; blocks for seconds."""

    def __call__(
        self,
        artifact: Path,
        options: Options,
        progress: Callable[[LayerProgress], None],
    ) -> CompletionBackend:
        """Return the backend, after it answered a warm-up.

        Raises:
            ArtifactError: The artifact cannot be used.
            DeviceError: The backend does not run on the device.
            OutOfMemory: The model does not fit.
            InvalidSetting: The model does not go with an option.
        """


def load_engine(
    artifact: Path,
    options: Options,
    progress: Callable[[LayerProgress], None],
) -> CompletionBackend:
    """Load with the runtime's engine; a :class:`Loader`."""
    # These imports take a good part of a second, which the HTTP server does not wait for.
    from rbee_runtime.engine import Engine
    from rbee_runtime.status import LoadProgress

    def tell(loading: LoadProgress) -> None:
        progress(LayerProgress(loading.layers_loaded, loading.layers_total, loading.bytes_loaded))

    return Engine.load(
        artifact,
        backend=options.backend,
        fallback=options.fallback,
        device=options.device,
        slots=options.slots,
        context_length=options.context_length,
        memory_budget=options.memory_budget,
        max_queue=options.max_queue,
        max_prefill_chunk=options.max_prefill_chunk,
        progress=tell,
    )
