"""What bodies have in common that ask a model of any kind."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticUseDefault


def admit_null(schema: JsonSchemaValue) -> None:
    """Say in an object's schema that ``null`` may stand for every optional member left out."""
    required = schema.get("required", ())
    for name, rule in schema["properties"].items():
        if name not in required and {"type": "null"} not in rule.get("anyOf", ()):
            kept = {key: rule.pop(key) for key in ("default", "title") if key in rule}
            schema["properties"][name] = {"anyOf": [rule, {"type": "null"}]} | kept


class PromptFields(BaseModel):
    """What every body has; unknown members are ignored, ``null`` means left out.

    Attributes:
        prompt: Text that the model reads.
    """

    # A worker starts without what only one kind of model is asked in.
    model_config = ConfigDict(
        strict=True, frozen=True, extra="ignore", allow_inf_nan=False, defer_build=True
    )

    prompt: Annotated[str, Field(min_length=1, max_length=32768)]

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

    def to_runtime(self, request_id: str, deadline: float | None) -> Any:
        """Return the runtime's form of this request.

        Args:
            request_id: Unique among live requests; a client may use one ``job_id`` twice.
            deadline: ``time.monotonic()`` value, or ``None`` for no deadline.
        """
        raise NotImplementedError


class NamedPrompt(PromptFields):
    """A body of ``POST /v1/inference``.

    Attributes:
        job_id: The client's name for the job.
    """

    job_id: Annotated[str, Field(min_length=1, max_length=256)]


class PromptJob(PromptFields):
    """A body of ``POST /v1/jobs``.

    Attributes:
        operation: The one that a worker knows.
        hive_id: Where to.
        model: On what.
        stream: Whether the text is wanted as it comes.
    """

    operation: Literal["infer"]
    hive_id: str = ""
    model: str = ""
    stream: bool = True


PRIVATE_FIELDS: Final = frozenset({"prompt", "stop"})
"""Fields that are never repeated to anyone."""
