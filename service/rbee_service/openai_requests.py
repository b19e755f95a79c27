"""What clients of the OpenAI API may ask for."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError

from rbee_runtime.constraint import Constraint, JsonSchema
from rbee_runtime.request import U64_MAX, Request, SamplingParams
from rbee_service.completion_request import TOP_K_CEILING, WHOLE, Fraction, StopString
from rbee_service.openai_bookkeeping import BookkeepingFields
from rbee_service.openai_formats import ResponseFormat, TextFormat
from rbee_service.openai_logprobs_fields import ChatLogprobsFields
from rbee_service.openai_messages import Message
from rbee_service.openai_prediction import Prediction
from rbee_service.openai_reasoning import ReasoningFields
from rbee_service.openai_tools import ToolChoice, Tools, require_known
from rbee_service.openai_unserved import Part

MOST_CHOICES: Final = 16
MOST_MESSAGES: Final = 2048
_MOST_BIASES: Final = 1024
_PENALTY = Annotated[float, Field(ge=-2.0, le=2.0)]
_TOKEN_ID = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
_STOPS = Annotated[list[StopString], Field(max_length=4)]
_TEXT = Annotated[str, Field(min_length=1)]
# To tell of every fault of a body of a megabyte takes seconds: of a long array, the first is told.
_TOKENS = Annotated[list[Annotated[int, Field(ge=0), WHOLE]], Field(min_length=1, fail_fast=True)]
_ONLY = Field(min_length=1, max_length=1)
_BIAS = Annotated[float, Field(ge=-100.0, le=100.0)]


def _list_of_stops(stop: Any) -> Any:
    if isinstance(stop, str):
        return [stop]
    if not isinstance(stop, list):
        raise PydanticCustomError("stop", "it must be a string or an array of strings")
    return stop


def _few(biases: Any) -> Any:
    # A validator looks at all members before it counts them.
    if isinstance(biases, dict) and len(biases) > _MOST_BIASES:
        raise PydanticKnownError(
            "too_long",
            {"field_type": "Dictionary", "max_length": _MOST_BIASES, "actual_length": len(biases)},
        )
    return biases


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


class StreamOptions(Part):
    """How a stream is told.

    Attributes:
        include_usage: Whether a last chunk counts the tokens.
        include_obfuscation: Whether chunks are padded; they are not here.
    """

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class OpenAiFields(BookkeepingFields):
    """What both kinds of completion are asked with.

    Beyond the OpenAI API there are ``top_k``, ``min_p`` and ``repetition_penalty``.

    Attributes:
        model: Must be the one that is served.
        max_tokens: Upper bound on new tokens; ``None`` for as many as the context holds.
        n: How many choices are answered with.
        temperature: 0 is greedy.
        top_p: 1.0 is off.
        frequency_penalty: 0.0 is off.
        presence_penalty: 0.0 is off.
        logit_bias: By token id.
        stop: Strings that end the completion.
        seed: Of the first choice's random stream, each further one has the next; drawn when left
            out.
        stream: Whether the text is wanted as it comes.
        stream_options: How.
        top_k: 0 is off.
        min_p: 0.0 is off.
        repetition_penalty: 1.0 is off.
    """

    model: Annotated[str, Field(min_length=1, max_length=512)]
    max_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES), WHOLE] = 1
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    top_p: Fraction = 1.0
    frequency_penalty: _PENALTY = 0.0
    presence_penalty: _PENALTY = 0.0
    logit_bias: Annotated[
        dict[_TOKEN_ID, _BIAS],
        Field(max_length=_MOST_BIASES, json_schema_extra={"additionalProperties": False}),
        BeforeValidator(_few),
    ] = Field(default_factory=dict)
    stop: Annotated[
        _STOPS, BeforeValidator(_list_of_stops, json_schema_input_type=StopString | _STOPS)
    ] = Field(default_factory=list)
    # OpenAI's is a signed integer of 64 bits, the engine's an unsigned one.
    seed: Annotated[int, Field(ge=-(2**63), le=U64_MAX), WHOLE] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    top_k: Annotated[int, Field(ge=0), WHOLE] = 0
    min_p: Fraction = 0.0
    repetition_penalty: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema, with the rule that binds two members."""
        schema = super().__get_pydantic_json_schema__(core, handler)
        streamed = {"required": ["stream"], "properties": {"stream": {"const": True}}}
        without = {"properties": {"stream_options": {"type": "null"}}}
        handler.resolve_ref_schema(schema)["anyOf"] = [without, streamed]
        return schema

    @model_validator(mode="after")
    def _options_are_of_a_stream(self) -> OpenAiFields:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "stream_options", "stream_options is only allowed when stream is true"
            )
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a count of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

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
            sampling=SamplingParams(
                repetition_penalty=self.repetition_penalty,
                frequency_penalty=self.frequency_penalty,
                presence_penalty=self.presence_penalty,
                logit_bias={int(token): bias for token, bias in self.logit_bias.items()},
                temperature=self.temperature,
                top_k=min(self.top_k, TOP_K_CEILING),
                top_p=self.top_p,
                min_p=self.min_p,
                seed=None if self.seed is None else (self.seed + index) & U64_MAX,
                logprobs=self.alternatives,
            ),
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
