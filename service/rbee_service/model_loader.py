"""Brings a model into the service, of whatever kind; the only place that knows what runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog

from rbee_runtime.artifact import Manifest, task_of
from rbee_runtime.artifact.cache import in_use
from rbee_runtime.embedding import EmbeddingEvent, EmbeddingRequest
from rbee_runtime.errors import ArtifactError, DeviceError, InvalidSetting, OutOfMemory
from rbee_runtime.events import Event
from rbee_runtime.request import Request
from rbee_service.backend import InferenceBackend, MemoryUse
from rbee_service.exit_codes import ExitCode, WorkerFault
from rbee_service.loading import LayerProgress
from rbee_service.model_source import resolve_model
from rbee_service.options import Options
from rbee_service.threads import in_daemon_thread

if TYPE_CHECKING:
    from rbee_runtime.artifact import EmbedderManifest, RerankerManifest
    from rbee_runtime.embedder import Embedder
    from rbee_runtime.reasoning import ReasoningForm
    from rbee_runtime.reranker import Reranker
    from rbee_runtime.reranking.events import RerankEvent
    from rbee_runtime.reranking.request import RerankRequest
    from rbee_runtime.status import LoadProgress
    from rbee_runtime.tools import CallManner

    AnyManifest = Manifest | EmbedderManifest | RerankerManifest

RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
EventT_co = TypeVar("EventT_co", covariant=True)
TextModelT = TypeVar("TextModelT", "Embedder", "Reranker")


class ChatTokenizer(Protocol):
    """Knows how a model wants a chat written down.

    Attributes:
        call_manner: How it is told of functions that it may call.
        reasoning_form: How it marks what it thinks before it answers, if it knows of that.
        template_variables: Names of what its chat template reads.
    """

    @property
    def call_manner(self) -> CallManner: ...  # noqa: D102
    @property
    def reasoning_form(self) -> ReasoningForm | None: ...  # noqa: D102
    @property
    def template_variables(self) -> frozenset[str]: ...  # noqa: D102

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt that asks for the next message.

        Args:
            messages: The chat so far.
            variables: What else the chat template may read, by name.

        Raises:
            InvalidRequest: The model has no chat template, or it rejects the messages.
        """

    def encode(self, text: str, name: str = "prompt") -> list[int]:
        """Return the ids of a text, as the engine reads it.

        Args:
            text: The text.
            name: What to call it in an error.

        Raises:
            InvalidRequest: It cannot be tokenized.
        """

    def spelled(self, token_id: int) -> bytes | None:
        """Return the bytes that one id adds to a text; ``None`` for one that has none."""

    def name(self, token_id: int) -> str:
        """Return what an id is called, special or not; empty for a gap in the vocabulary."""


class CacheMemory(MemoryUse, Protocol):
    """What a model holds in memory, in bytes.

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


class ModelBackend(InferenceBackend[RequestT_contra, EventT_co], Protocol):
    """A backend that answers for one model.

    Attributes:
        manifest: Of the model's artifact.
        backend_name: ``cpu``, ``cuda`` or ``tensorrt``.
        tokenizer: The model's.
        context_length: Tokens of a request at most.
    """

    @property
    def manifest(self) -> AnyManifest: ...  # noqa: D102
    @property
    def backend_name(self) -> str: ...  # noqa: D102
    @property
    def tokenizer(self) -> ChatTokenizer: ...  # noqa: D102
    @property
    def context_length(self) -> int: ...  # noqa: D102

    def memory(self) -> CacheMemory:
        """Return what it holds in memory."""


CompletionBackend = ModelBackend[Request, Event]
EmbeddingBackend = ModelBackend[EmbeddingRequest, EmbeddingEvent]


class Loader(Protocol):
    """Loads an artifact; blocks for seconds."""

    def __call__(
        self,
        artifact: Path,
        options: Options,
        progress: Callable[[LayerProgress], None],
    ) -> ModelBackend[Any, Any]:
        """Return the backend, after it answered a warm-up.

        Raises:
            ArtifactError: The artifact cannot be used.
            DeviceError: The backend does not run on the device.
            OutOfMemory: The model does not fit.
            InvalidSetting: The model does not go with an option.
        """


def load_model(
    artifact: Path,
    options: Options,
    progress: Callable[[LayerProgress], None],
) -> ModelBackend[Any, Any]:
    """Load with what the runtime has for this kind of model; a :class:`Loader`."""

    def tell(loading: LoadProgress) -> None:
        progress(LayerProgress(loading.layers_loaded, loading.layers_total, loading.bytes_loaded))

    task = task_of(artifact)
    if task == "embed":
        return _load_embedder(artifact, options, tell)
    if task == "rerank":
        return _load_reranker(artifact, options, tell)
    return _load_engine(artifact, options, tell)


# These imports take a good part of a second, which the HTTP server does not wait for, and no kind
# of model for those of another.


def _load_engine(
    artifact: Path, options: Options, progress: Callable[[LoadProgress], None]
) -> CompletionBackend:
    from rbee_runtime.engine import Engine

    return Engine.load(
        artifact,
        backend=options.backend,
        fallback=options.fallback,
        device=options.device,
        slots=options.slots,
        context_length=options.context_length,
        memory_budget=options.memory_budget,
        cache_type=options.cache_type,
        max_queue=options.max_queue,
        max_prefill_chunk=options.max_prefill_chunk,
        draft_tokens=options.draft_tokens,
        progress=progress,
    )


def _load_embedder(
    artifact: Path, options: Options, progress: Callable[[LoadProgress], None]
) -> EmbeddingBackend:
    from rbee_runtime.embedder import Embedder

    return _load_texts(Embedder, "an embedding model", artifact, options, progress)


def _load_reranker(
    artifact: Path, options: Options, progress: Callable[[LoadProgress], None]
) -> ModelBackend[RerankRequest, RerankEvent]:
    from rbee_runtime.reranker import Reranker

    return _load_texts(Reranker, "a reranker", artifact, options, progress)


def _load_texts(
    kind: type[TextModelT],
    name: str,
    artifact: Path,
    options: Options,
    progress: Callable[[LoadProgress], None],
) -> TextModelT:
    asked = {
        "--slots": options.slots,
        "--context-length": options.context_length,
        "--cache-type": options.cache_type,
    }
    idle = [flag for flag, value in asked.items() if value is not None]
    if idle:
        structlog.get_logger().warning(f"Of no use to {name}", flags=", ".join(idle))
    return kind.load(
        artifact,
        backend=options.backend,
        device=options.device,
        max_queue=options.max_queue,
        progress=progress,
    )


async def bring_in(
    options: Options,
    cache: Path,
    load: Loader,
    progress: Callable[[LayerProgress], None],
    held: ExitStack,
) -> ModelBackend[Any, Any]:
    """Return the backend of the model that a worker was asked for, exported where it must be.

    Args:
        options: Ask for it.
        cache: Where exported artifacts lie.
        load: Loads the artifact.
        progress: Told how far it has come, on any thread.
        held: Keeps the artifact from being cleared away until it is closed.

    Raises:
        WorkerFault: It cannot be had.
    """
    log = structlog.get_logger()
    # It stops and starts again what takes longer than it waits: no export would ever end.
    hive = options.callback_url is not None or options.hive_url is not None
    try:
        artifact = await resolve_model(options.model, cache, outlasts=hive)
        log.info("Loading", artifact=str(artifact))
        await in_daemon_thread(partial(held.enter_context, in_use(artifact)), "artifact-keeper")
        return await in_daemon_thread(partial(load, artifact, options, progress), "model-loader")
    except ArtifactError as error:
        raise WorkerFault(ExitCode.MODEL_UNUSABLE, str(error)) from error
    except OutOfMemory as error:
        message = f"{options.model}: does not fit into memory: {error}"
        raise WorkerFault(ExitCode.MODEL_UNUSABLE, message) from error
    except InvalidSetting as error:
        message = f"{options.model}: {error}"
        raise WorkerFault(ExitCode.BAD_ARGUMENTS, message) from error
    except DeviceError as error:
        raise WorkerFault(ExitCode.DEVICE_UNUSABLE, str(error)) from error
    except Exception as error:
        log.exception("Loading failed")
        message = f"{options.model}: cannot be loaded: {type(error).__name__}: {error}"
        raise WorkerFault(ExitCode.MODEL_UNUSABLE, message) from error
