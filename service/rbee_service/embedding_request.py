"""What a client may ask of an embedding model, and the bodies it asks in."""

from __future__ import annotations

from pydantic import ConfigDict

from rbee_runtime.embedding import EmbeddingRequest
from rbee_service.prompt_request import NamedPrompt, PromptFields, PromptJob

_NO_COMPLETION = ConfigDict(json_schema_extra={"not": {"required": ["max_tokens"]}})
"""Tells its bodies from those of a language model, whose bounds it need not know."""


class EmbedFields(PromptFields):
    """What every body has; unknown members are ignored, ``null`` means left out.

    Attributes:
        prompt: Text whose vector is wanted.
    """

    model_config = _NO_COMPLETION

    def to_runtime(self, request_id: str, deadline: float | None) -> EmbeddingRequest:
        """Return the embedder's form of this request."""
        return EmbeddingRequest(request_id, (self.prompt,), deadline, called="prompt")


class EmbedRequest(NamedPrompt, EmbedFields):
    """The body of ``POST /v1/inference`` for an embedding model."""


class EmbedJobRequest(PromptJob, EmbedFields):
    """The body of ``POST /v1/jobs`` for an embedding model.

    Where the job is to run, and on which model, has been settled by whoever brought it here.
    """
