"""The kinds of model that a worker serves."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from rbee_runtime.artifact import Manifest, Task
from rbee_runtime.embedding import MOST_INPUTS, EmbeddingEvent
from rbee_runtime.events import Event
from rbee_service.completion import CompletionTranslator
from rbee_service.completion_meter import CompletionMeter
from rbee_service.completion_request import CompletionRequest, JobRequest
from rbee_service.embedding import EmbeddingTranslator
from rbee_service.embedding_meter import EmbeddingMeter
from rbee_service.embedding_request import EmbedJobRequest, EmbedRequest
from rbee_service.events import EmbeddingOutput, ScoreOutput, TokenOutput
from rbee_service.model_kind import ModelKind

if TYPE_CHECKING:
    from rbee_runtime.reranking.events import RerankEvent
    from rbee_service.model_loader import AnyManifest
    from rbee_service.reranking import RerankTranslator

LANGUAGE_MODEL: Final[ModelKind[Event, TokenOutput]] = ModelKind(
    name="a language model",
    actor="llm-worker-rbee",
    routes=(
        "/v1/chat/completions, /v1/responses, /v1/messages, /v1/completions, /v1/inference, "
        "/v1/infer or /v1/jobs"
    ),
    inference=CompletionRequest,
    job=JobRequest,
    translate=CompletionTranslator,
    meter=CompletionMeter,
)

EMBEDDING_MODEL: Final[ModelKind[EmbeddingEvent, EmbeddingOutput]] = ModelKind(
    name="an embedding model",
    actor="embedding-worker-rbee",
    routes="/v1/embeddings, /v1/inference or /v1/jobs",
    inference=EmbedRequest,
    job=EmbedJobRequest,
    translate=EmbeddingTranslator,
    meter=EmbeddingMeter,
    # One for each text, and all of a step come at once.
    most_waiting=MOST_INPUTS + 1,
)


def _rerank_translator(**known: Any) -> RerankTranslator:
    """Return a reranker's translator, which workers of other models start without."""
    from rbee_service.reranking import RerankTranslator

    return RerankTranslator(**known)


RERANKER: Final[ModelKind[RerankEvent, ScoreOutput]] = ModelKind(
    name="a reranker",
    actor="reranking-worker-rbee",
    routes="/v1/rerank",
    translate=_rerank_translator,
    meter=EmbeddingMeter,
    most_waiting=MOST_INPUTS + 1,
)

_OTHERS: Final[Mapping[Task, ModelKind[Any, Any]]] = MappingProxyType(
    {"embed": EMBEDDING_MODEL, "rerank": RERANKER}
)


def kind_of(manifest: AnyManifest) -> ModelKind[Any, Any]:
    """Return the kind of a model, given the manifest of its artifact."""
    return LANGUAGE_MODEL if isinstance(manifest, Manifest) else _OTHERS[manifest.task]
