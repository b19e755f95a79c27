"""How clients of the OpenAI API say how tokens are drawn."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError, PydanticKnownError

from rbee_runtime.request import U64_MAX, SamplingParams
from rbee_service.completion_request import TOP_K_CEILING, WHOLE, Fraction, StopString
from rbee_service.openai.unserved import Part

_MOST_BIASES: Final = 1024
_PENALTY = Annotated[float, Field(ge=-2.0, le=2.0)]
_TOKEN_ID = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
_STOPS = Annotated[list[StopString], Field(max_length=4)]
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


class SamplingFields(Part):
    """What a request is asked with for the drawing of tokens.

    Not all of OpenAI's routes have all of it; beyond OpenAI's, there are ``top_k``, ``min_p`` and
    ``repetition_penalty``.

    Attributes:
        temperature: 0 is greedy.
        top_p: 1.0 is off.
        frequency_penalty: 0.0 is off.
        presence_penalty: 0.0 is off.
        logit_bias: By token id.
        stop: Strings that end the completion.
        seed: Of the first choice's random stream, each further one has the next; drawn when left
            out.
        top_k: 0 is off.
        min_p: 0.0 is off.
        repetition_penalty: 1.0 is off.
    """

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
    top_k: Annotated[int, Field(ge=0), WHOLE] = 0
    min_p: Fraction = 0.0
    repetition_penalty: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0

    def sampling(self, index: int = 0, logprobs: int | None = None) -> SamplingParams:
        """Return the engine's form of it.

        Args:
            index: Which of the choices.
            logprobs: How many likeliest tokens are told beside each.
        """
        return SamplingParams(
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias={int(token): bias for token, bias in self.logit_bias.items()},
            temperature=self.temperature,
            top_k=min(self.top_k, TOP_K_CEILING),
            top_p=self.top_p,
            min_p=self.min_p,
            seed=None if self.seed is None else (self.seed + index) & U64_MAX,
            logprobs=logprobs,
        )
