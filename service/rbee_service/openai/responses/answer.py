"""Answers of the Responses API in the shape that its clients read."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from rbee_service.inference import Account
from rbee_service.openai.logprobs import ContentLogprob

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class OutputTextBody(TypedDict):
    """What the model said."""

    type: Literal["output_text"]
    annotations: list[Any]
    logprobs: list[ContentLogprob]
    text: str


class ReasoningTextBody(TypedDict):
    """What the model thought."""

    type: Literal["reasoning_text"]
    text: str


class OutputMessageBody(TypedDict):
    """A message of the model."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputTextBody]


class OutputReasoningBody(TypedDict):
    """What the model thought before it answered."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any]
    content: list[ReasoningTextBody]


class OutputCallBody(TypedDict):
    """A call of a function."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem: TypeAlias = OutputMessageBody | OutputReasoningBody | OutputCallBody


class ResponseErrorBody(TypedDict):
    """Why a response failed after it had begun."""

    code: Literal["server_error", "invalid_prompt"]
    message: str


class IncompleteBody(TypedDict):
    """Why a response ended early."""

    reason: Literal["max_output_tokens"]


class EchoedFunctionBody(TypedDict):
    """A function that might be called."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class EchoedChoiceBody(TypedDict):
    """The one function that was to be called."""

    type: Literal["function"]
    name: str


class EchoedTextBody(TypedDict):
    """What the text was to be like."""

    format: dict[str, Any]
    verbosity: Literal["medium"]


class EchoedReasoningBody(TypedDict):
    """How the model was to think."""

    effort: str | None
    summary: str | None


class InputTokensBody(TypedDict):
    """What is known of the tokens of a prompt.

    Attributes:
        cached_tokens: Those that had been computed before.
        cache_write_tokens: Those that were computed, which a later prompt may begin with.
    """

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensBody(TypedDict):
    """What is known of the tokens of an answer.

    Attributes:
        reasoning_tokens: Those of what the model thought first, markers included.
    """

    reasoning_tokens: int


class ResponseUsageBody(TypedDict):
    """A count of tokens."""

    input_tokens: int
    input_tokens_details: InputTokensBody
    output_tokens: int
    output_tokens_details: OutputTokensBody
    total_tokens: int


class ResponseBody(TypedDict):
    """An answer, or as much of it as there is."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False]
    error: ResponseErrorBody | None
    incomplete_details: IncompleteBody | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: EchoedReasoningBody
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: EchoedTextBody
    tool_choice: Literal["none", "auto", "required"] | EchoedChoiceBody
    tools: list[EchoedFunctionBody]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsageBody | None
    user: str | None
    metadata: dict[str, str]
    completed_at: NotRequired[int]


def response_usage(account: Account) -> ResponseUsageBody:
    """Return what an answer took."""
    return {
        "input_tokens": account.tokens_in,
        "input_tokens_details": {
            "cached_tokens": account.tokens_reused,
            "cache_write_tokens": account.tokens_in - account.tokens_reused,
        },
        "output_tokens": account.tokens_out,
        "output_tokens_details": {"reasoning_tokens": account.reasoning or 0},
        "total_tokens": account.tokens_in + account.tokens_out,
    }
