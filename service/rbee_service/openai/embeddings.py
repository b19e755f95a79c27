"""What clients of the OpenAI API may ask of an embedding model, and the shapes they read."""

from __future__ import annotations

import base64
import math
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypedDict

from rbee_runtime.embedding import MOST_INPUTS, EmbeddingRequest
from rbee_service.compact_json import json_array, json_bytes, json_object
from rbee_service.completion_request import WHOLE
from rbee_service.events import EmbeddingOutput
from rbee_service.inference import Account
from rbee_service.openai.unserved import Part

_TEXT = Annotated[str, Field(min_length=1)]
# To tell of every fault of a body of a megabyte takes seconds: of a long array, the first is told.
_TOKENS = Annotated[list[Annotated[int, Field(ge=0), WHOLE]], Field(min_length=1, fail_fast=True)]
_SHORTEST = 1e-12
"""Length below which a vector is not made longer."""

_SEVERAL = Field(min_length=1, max_length=MOST_INPUTS)


def _form(given: Any) -> str | None:
    match given:
        case str():
            return "a-text"
        case [int() | float(), *_]:
            return "token-ids"
        case [list(), *_]:
            return "lists-of-token-ids"
        case list():
            return "several-texts"
    return None


class EmbeddingsRequest(Part):
    """The body of ``POST /v1/embeddings``.

    Attributes:
        model: Must be the one that is served.
        input: A text or token ids, or several of either. Ids are taken as they are: none is added.
        encoding_format: How vectors are written: as numbers, or as the base64 of little-endian
            float32.
        dimensions: As many as the model's vectors have, or fewer where it was trained for that.
        user: Not looked at.
    """

    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: Annotated[
        Annotated[_TEXT, Tag("a-text")]
        | Annotated[list[_TEXT], _SEVERAL, Tag("several-texts")]
        | Annotated[_TOKENS, Tag("token-ids")]
        | Annotated[list[_TOKENS], _SEVERAL, Tag("lists-of-token-ids")],
        Discriminator(
            _form,
            custom_error_type="input_form",
            custom_error_message="must be a text, token ids, or a list of either",
        ),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1), WHOLE] | None = None
    user: str | None = None

    def to_runtime(self, request_id: str, deadline: float | None) -> EmbeddingRequest:
        """Return the embedder's form of this request.

        Args:
            request_id: Unique among live requests.
            deadline: ``time.monotonic()`` value, or ``None`` for no deadline.
        """
        inputs: list[Any] = self.input if isinstance(self.input, list) else [self.input]
        if isinstance(inputs[0], int):
            inputs = [inputs]
        texts = (text if isinstance(text, str) else tuple(text) for text in inputs)
        return EmbeddingRequest(request_id, tuple(texts), deadline)


class EmbeddingBody(TypedDict):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """A count of tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsBody(TypedDict):
    """The vectors of the texts of a request, in their order."""

    object: Literal["list"]
    data: list[EmbeddingBody]
    model: str
    usage: EmbeddingUsage


def embedding_body(
    index: int,
    output: EmbeddingOutput,
    form: Literal["float", "base64"],
    dimensions: int | None = None,
) -> EmbeddingBody:
    """Return a vector as one reads it who asked for it in this form.

    Args:
        index: Which of the inputs it is of.
        output: The vector.
        form: As what.
        dimensions: What to cut it to; ``None`` for no cut.
    """
    vector = output.embedding
    if dimensions is not None and dimensions < output.dim:
        vector = _cut(vector, dimensions)
    numbers: list[float] | str = list(vector)
    if form == "base64":
        packed = struct.pack(f"<{len(vector)}f", *vector)
        numbers = base64.b64encode(packed).decode("ascii")
    return {"object": "embedding", "index": index, "embedding": numbers}


def _cut(vector: Sequence[float], dimensions: int) -> tuple[float, ...]:
    """Return the beginning of a vector, in float32 and of length 1."""
    beginning = vector[:dimensions]
    length = max(math.hypot(*beginning), _SHORTEST)
    rounded = array("f", (number / length for number in beginning))
    return tuple(rounded)


def embeddings_answer(
    vectors: Iterable[bytes], model: str, account: Account
) -> Iterator[bytes | bytearray]:
    """Yield an :class:`EmbeddingsBody` as JSON.

    Args:
        vectors: Each an :class:`EmbeddingBody` as JSON, in their order.
        model: Reference of the model.
        account: Counts the tokens.
    """
    tokens = account.tokens_in
    usage: EmbeddingUsage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_object(
        {
            "object": [b'"list"'],
            "data": json_array([vector] for vector in vectors),
            "model": [json_bytes(model)],
            "usage": [json_bytes(usage)],
        }
    )
