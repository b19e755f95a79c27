"""The kinds of model that a worker serves."""

from __future__ import annotations

from typing import Any, Final

from rbee_runtime.artifact import Manifest
from rbee_runtime.events import Event
from rbee_service.completion import CompletionTranslator
from rbee_service.completion_meter import CompletionMeter
from rbee_service.completion_request import CompletionRequest, JobRequest
from rbee_service.events import TokenOutput
from rbee_service.model_kind import ModelKind

LANGUAGE_MODEL: Final[ModelKind[Event, TokenOutput]] = ModelKind(
    name="a language model",
    actor="llm-worker-rbee",
    routes="/v1/chat/completions, /v1/completions, /v1/inference, /v1/infer or /v1/jobs",
    inference=CompletionRequest,
    job=JobRequest,
    translate=CompletionTranslator,
    meter=CompletionMeter,
)


def kind_of(manifest: Manifest) -> ModelKind[Any, Any]:
    """Return the kind of a model, given the manifest of its artifact."""
    return LANGUAGE_MODEL
