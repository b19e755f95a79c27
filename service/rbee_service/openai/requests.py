"""What clients of the OpenAI API may ask for."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rbee_runtime.constraint import Constraint, JsonSchema
from rbee_runtime.request import Request
from rbee_service.completion_request import WHOLE
from rbee_service.openai.bookkeeping import BookkeepingFields
from rbee_service.openai.formats import ResponseFormat, TextFormat
from rbee_service.openai.logprobs_fields import ChatLogprobsFields
from rbee_service.openai.messages import Message
from rbee_service.openai.prediction import Prediction
from rbee_service.openai.reasoning import ReasoningFields
from rbee_service.openai.sampling import SamplingFields
from rbee_service.openai.streaming import StreamFields
from rbee_service.openai.tools import ToolChoice, Tools, require_known

MOST_CHOICES: Final = 16
MOST_MESSAGES: Final = 2048
_TEXT = Annotated[str, Field(min_length=1)]
# To tell of every fault of a body of a megabyte takes seconds: of a long array, the first is told.
_TOKENS = Annotated[list[Annotated[int, Field(ge=0), WHOLE]], Field(min_length=1, fail_fast=True)]
_ONLY = Field(min_length=1, max_length=1)


def _one_prompt(prompt: Any) -> Any:
    match prompt:
        case [str() | list() as only]:
            return only
        case [str() | list(), *_]:
            raise PydanticCustomError("several", "only one prompt is served at a time")
    return prompt


def _form(prompt: Any) -> str | None:
    match prompt:
        case str():
            return "a-text"
        case list():
            return "token-ids"
    return None


class OpenAiFields(StreamFields, SamplingFields, BookkeepingFields):
    """What both kinds of completion are asked with.

    Attributes:
        model: Must be the one that is served.
        max_tokens: Upper bound on new tokens; ``None`` for as many as the context holds.
        n: How many choices are answered with.
    """

    model: Annotated[str, Field(min_length=1, max_length=512)]
    max_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES), WHOLE] = 1

    @property
    def alternatives(self) -> int | None:
        """How many likeliest tokens are told beside each; ``None`` if nothing is told of them."""
        return None

    @property
    def expected(self) -> str:
        """What the completion is expected to repeat."""
        return ""

    def to_runtime(
        self,
        request_id: str,
        prompt: str | list[int],
        max_tokens: int | None,
        deadline: float | None,
        *,
        constraint: Constraint | None = None,
        shown: frozenset[int] = frozenset(),
        index: int = 0,
    ) -> Request:
        """Return the engine's form of this request.

        Args:
            request_id: Unique among live requests.
            prompt: Text or token ids to continue.
            max_tokens: Upper bound on new tokens.
            deadline: ``time.monotonic()`` value, or ``None`` for no deadline.
            constraint: What the completion is held to.
            shown: Special tokens that have their names in the text.
            index: Which of the choices.
        """
        return Request(
            request_id=request_id,
            prompt=prompt,
            max_tokens=max_tokens,
            sampling=self.sampling(index, self.alternatives),
            stop=tuple(self.stop),
            deadline=deadline,
            constraint=constraint,
            prediction=self.expected,
            shown=shown,
        )


class ChatRequest(ChatLogprobsFields, ReasoningFields, OpenAiFields):
    """The body of ``POST /v1/chat/completions``.

    Attributes:
        messages: The chat so far.
        max_completion_tokens: The newer name of ``max_tokens``.
        response_format: What the answer is held to; not beside tools that may be called.
        tools: Functions that the model may call.
        tool_choice: Whether it calls one, and which.
        parallel_tool_calls: Whether it may call several at once.
        prediction: What much of the answer is expected to repeat.
    """

    messages: Annotated[
        list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    ]
    max_completion_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    response_format: ResponseFormat | None = None
    tools: Tools = Field(default_factory=list)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    prediction: Prediction | None = None

    @model_validator(mode="after")
    def _tools_are_chosen_from(self) -> ChatRequest:
        require_known(self.tools, self.tool_choice)
        shaped = not isinstance(self.response_format, TextFormat | None)
        if shaped and self.tools and self.tool_choice != "none":
            message = "response_format is served with tools only where tool_choice is none"
            raise PydanticCustomError("response_format", message)
        return self

    @property
    def constraint(self) -> JsonSchema | None:
        """What the answer is held to."""
        return None if self.response_format is None else self.response_format.constraint()

    @property
    def expected(self) -> str:
        """What the answer is expected to repeat."""
        return "" if self.prediction is None else self.prediction.content

    @property
    def new_tokens(self) -> int | None:
        """Upper bound on new tokens: of two, the lower."""
        given = (self.max_tokens, self.max_completion_tokens)
        return min((bound for bound in given if bound is not None), default=None)


class TextRequest(OpenAiFields):
    """The body of ``POST /v1/completions``.

    Attributes:
        prompt: Text or token ids to continue.
        max_tokens: Upper bound on new tokens; OpenAI's default is as low.
        logprobs: Tell how likely the model held each token, and as many of the likeliest in its
            place.
    """

    prompt: Annotated[
        Annotated[_TEXT, Tag("a-text")] | Annotated[_TOKENS, Tag("token-ids")],
        Discriminator(
            _form,
            custom_error_type="prompt_form",
            custom_error_message="it must be a string or an array of token ids",
        ),
        BeforeValidator(
            _one_prompt,
            json_schema_input_type=(
                _TEXT | _TOKENS | Annotated[list[_TEXT], _ONLY] | Annotated[list[_TOKENS], _ONLY]
            ),
        ),
    ]
    max_tokens: Annotated[int, Field(ge=1), WHOLE] = 16
    logprobs: Annotated[int, Field(ge=0, le=5), WHOLE] | None = None

    @property
    def alternatives(self) -> int | None:
        """How many likeliest tokens are told beside each; ``None`` if nothing is told of them."""
        return self.logprobs
