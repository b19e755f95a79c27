"""What a client may ask of a language model, and the bodies it asks in."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticUseDefault

from rbee_runtime.request import U64_MAX, Request, SamplingParams

# Beyond any vocabulary, and inside every integer type on the way to the sampler.
TOP_K_CEILING: Final = 2**31 - 1


def _whole(value: Any) -> Any:
    # JSON has one kind of number: 4.0 is the integer 4, and some clients write it so.
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE: Final = BeforeValidator(_whole)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
StopString = Annotated[str, Field(min_length=1, max_length=100)]
NewTokens = Annotated[int, Field(ge=1, le=2048), WHOLE]


def admit_null(schema: JsonSchemaValue) -> None:
    """Say in an object's schema that ``null`` may stand for every optional member left out."""
    required = schema.get("required", ())
    for name, rule in schema["properties"].items():
        if name not in required and {"type": "null"} not in rule.get("anyOf", ()):
            kept = {key: rule.pop(key) for key in ("default", "title") if key in rule}
            schema["properties"][name] = {"anyOf": [rule, {"type": "null"}]} | kept


class CompletionFields(BaseModel):
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

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    prompt: Annotated[str, Field(min_length=1, max_length=32768)]
    max_tokens: NewTokens | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    top_p: Fraction = 1.0
    top_k: Annotated[int, Field(ge=0), WHOLE] = 0
    min_p: Fraction = 0.0
    repetition_penalty: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    stop: Annotated[list[StopString], Field(max_length=4)] = Field(default_factory=list)
    seed: Annotated[int, Field(ge=0, le=U64_MAX), WHOLE] | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if value is None:
            raise PydanticUseDefault
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core)
        admit_null(handler.resolve_ref_schema(schema))
        return schema

    def to_runtime(self, request_id: str, deadline: float | None) -> Request:
        """Return the engine's form of this request.

        Args:
            request_id: Unique among live requests; a client may use one ``job_id`` twice.
            deadline: ``time.monotonic()`` value, or ``None`` for no deadline.
        """
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


class CompletionRequest(CompletionFields):
    """The body of ``POST /v1/inference``.

    Attributes:
        job_id: The client's name for the job.
        max_tokens: Upper bound on new tokens.
    """

    job_id: Annotated[str, Field(min_length=1, max_length=256)]
    max_tokens: NewTokens


class JobRequest(CompletionFields):
    """The body of ``POST /v1/jobs``.

    Where the job is to run, and on which model, has been settled by whoever brought it here; how it
    is read is settled by who reads it.

    Attributes:
        operation: The one that a worker knows.
        max_tokens: Upper bound on new tokens.
        hive_id: Where to.
        model: On what.
        stream: Whether the text is wanted as it comes.
    """

    operation: Literal["infer"]
    max_tokens: NewTokens
    hive_id: str = ""
    model: str = ""
    stream: bool = True


class InferRequest(CompletionFields):
    """The body of ``POST /v1/infer``.

    Attributes:
        stream: Whether the text is wanted as it comes.
    """

    stream: bool = False


PRIVATE_FIELDS: Final = frozenset({"prompt", "stop"})
"""Fields that are never repeated to anyone."""
