"""What a client may ask of a language model, and the bodies it asks in."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, ConfigDict, Field

from rbee_runtime.request import U64_MAX, Request, SamplingParams
from rbee_service.prompt_request import NamedPrompt, PromptFields, PromptJob

# Beyond any vocabulary, and inside every integer type on the way to the sampler.
TOP_K_CEILING: Final = 2**31 - 1


def _whole(value: Any) -> Any:
    # JSON has one kind of number: 4.0 is the integer 4, and some clients write it so.
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE: Final = BeforeValidator(_whole)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
StopString = Annotated[str, Field(min_length=1, max_length=100)]
NewTokens = Annotated[int, Field(ge=1, le=2048), WHOLE]


class CompletionFields(PromptFields):
    """What every body has; unknown members are ignored, ``null`` means left out.

    Attributes:
        prompt: Text to continue.
        max_tokens: Upper bound on new tokens; ``None`` for as many as the context holds.
        temperature: 0 is greedy.
        top_p: 1.0 is off.
        top_k: 0 is off.
        min_p: 0.0 is off.
        repetition_penalty: 1.0 is off.
        stop: Strings that end the completion.
        seed: Of the request's random stream; drawn when left out.
    """

    model_config = ConfigDict(defer_build=False)

    max_tokens: NewTokens | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    top_p: Fraction = 1.0
    top_k: Annotated[int, Field(ge=0), WHOLE] = 0
    min_p: Fraction = 0.0
    repetition_penalty: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    stop: Annotated[list[StopString], Field(max_length=4)] = Field(default_factory=list)
    seed: Annotated[int, Field(ge=0, le=U64_MAX), WHOLE] | None = None

    def to_runtime(self, request_id: str, deadline: float | None) -> Request:
        """Return the engine's form of this request."""
        return Request(
            request_id=request_id,
            prompt=self.prompt,
            max_tokens=self.max_tokens,
            sampling=SamplingParams(
                repetition_penalty=self.repetition_penalty,
                temperature=self.temperature,
                top_k=min(self.top_k, TOP_K_CEILING),
                top_p=self.top_p,
                min_p=self.min_p,
                seed=self.seed,
            ),
            stop=tuple(self.stop),
            deadline=deadline,
        )


class CompletionRequest(NamedPrompt, CompletionFields):
    """The body of ``POST /v1/inference``.

    Attributes:
        job_id: The client's name for the job.
        max_tokens: Upper bound on new tokens.
    """

    max_tokens: NewTokens


class JobRequest(PromptJob, CompletionFields):
    """The body of ``POST /v1/jobs``.

    Where the job is to run, and on which model, has been settled by whoever brought it here; how it
    is read is settled by who reads it.

    Attributes:
        max_tokens: Upper bound on new tokens.
    """

    max_tokens: NewTokens


class InferRequest(CompletionFields):
    """The body of ``POST /v1/infer``.

    Attributes:
        stream: Whether the text is wanted as it comes.
    """

    stream: bool = False
