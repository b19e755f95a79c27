"""Brings a model into the service, of whatever kind; the only place that knows what runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog

from rbee_runtime.artifact import Manifest
from rbee_runtime.errors import ArtifactError, DeviceError, InvalidSetting, OutOfMemory
from rbee_runtime.events import Event
from rbee_runtime.request import Request
from rbee_service.backend import InferenceBackend, MemoryUse
from rbee_service.exit_codes import ExitCode, WorkerFault
from rbee_service.loading import LayerProgress
from rbee_service.model_source import resolve_model
from rbee_service.options import Options
from rbee_service.threads import in_daemon_thread

RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
EventT_co = TypeVar("EventT_co", covariant=True)


class ChatTokenizer(Protocol):
    """Knows how a model wants a chat written down."""

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the prompt that asks for the next message.

        Raises:
            InvalidRequest: The model has no chat template, or it rejects the messages.
        """


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
    """

    @property
    def manifest(self) -> Manifest: ...  # noqa: D102
    @property
    def backend_name(self) -> str: ...  # noqa: D102
    @property
    def tokenizer(self) -> ChatTokenizer: ...  # noqa: D102

    def memory(self) -> CacheMemory:
        """Return what it holds in memory."""


CompletionBackend = ModelBackend[Request, Event]


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


async def bring_in(
    options: Options, cache: Path, load: Loader, progress: Callable[[LayerProgress], None]
) -> ModelBackend[Any, Any]:
    """Return the backend of the model that a worker was asked for, exported where it must be.

    Args:
        options: Ask for it.
        cache: Where exported artifacts lie.
        load: Loads the artifact.
        progress: Told how far it has come, on any thread.

    Raises:
        WorkerFault: It cannot be had.
    """
    log = structlog.get_logger()
    try:
        artifact = await resolve_model(options.model, cache)
        log.info("Loading", artifact=str(artifact))
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
