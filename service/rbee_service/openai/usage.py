"""Counts of tokens in the shape that clients of the OpenAI API read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NotRequired

from typing_extensions import TypedDict

from rbee_service.inference import Account


class PromptTokens(TypedDict):
    """What is known of the tokens of a prompt."""

    cached_tokens: int


class CompletionTokens(TypedDict):
    """What is known of the tokens of an answer.

    Attributes:
        reasoning_tokens: Those of what the model thought first, markers included.
        accepted_prediction_tokens: Guesses from a prediction that came true.
        rejected_prediction_tokens: Those that did not; they are not among the answer's.
    """

    reasoning_tokens: NotRequired[int]
    accepted_prediction_tokens: NotRequired[int]
    rejected_prediction_tokens: NotRequired[int]


class Usage(TypedDict):
    """A count of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens
    completion_tokens_details: NotRequired[CompletionTokens]


def usage_of(account: Account, *, predicted: bool) -> Usage:
    """Return what an answer took.

    Args:
        account: What the engine says of it.
        predicted: Whether it is told what came of a prediction.
    """
    counted: Usage = {
        "prompt_tokens": account.tokens_in,
        "completion_tokens": account.tokens_out,
        "total_tokens": account.tokens_in + account.tokens_out,
        "prompt_tokens_details": {"cached_tokens": account.tokens_reused},
    }
    details: CompletionTokens = {}
    if account.reasoning is not None:
        details["reasoning_tokens"] = account.reasoning
    if predicted:
        details["accepted_prediction_tokens"] = account.accepted
        details["rejected_prediction_tokens"] = account.drafted - account.accepted
    if details:
        counted["completion_tokens_details"] = details
    return counted


def account_of(choices: Sequence[Account]) -> Account:
    """Return what several choices took together: their prompt counts once."""
    first = choices[0]
    thought = [choice.reasoning for choice in choices if choice.reasoning is not None]
    return replace(
        first,
        tokens_out=sum(choice.tokens_out for choice in choices),
        drafted=sum(choice.drafted for choice in choices),
        accepted=sum(choice.accepted for choice in choices),
        reasoning=sum(thought) if thought else None,
    )
