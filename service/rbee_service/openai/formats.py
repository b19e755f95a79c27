"""What an answer to a chat may be held to, as clients of the OpenAI API ask for it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from rbee_runtime.constraint import JsonSchema
from rbee_service.openai.unserved import Part


class TextFormat(Part):
    """Any text.

    Attributes:
        type: Says so.
    """

    type: Literal["text"]

    def constraint(self) -> JsonSchema | None:
        """Return the engine's form of it."""
        return None


class JsonObjectFormat(Part):
    """Any JSON object.

    Attributes:
        type: Says so.
    """

    type: Literal["json_object"]

    called: ClassVar[str] = "response_format"
    """What it is called in a request."""

    def constraint(self) -> JsonSchema | None:
        """Return the engine's form of it."""
        return JsonSchema({"type": "object"}, self.called)


class NamedSchema(Part):
    """A JSON schema and what it is called.

    Attributes:
        name: Not looked at.
        description: Not looked at: what the model is to know is in the messages.
        schema_: The schema. A keyword in it that cannot be enforced is refused.
        strict: Not looked at: a schema is always kept to.
    """

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class JsonSchemaFormat(Part):
    """JSON that a schema admits.

    Attributes:
        type: Says so.
        json_schema: The schema.
    """

    type: Literal["json_schema"]
    json_schema: NamedSchema

    def constraint(self) -> JsonSchema | None:
        """Return the engine's form of it."""
        return JsonSchema(self.json_schema.schema_, "response_format")


def _kind(given: Any) -> str | None:
    kind = given.get("type") if isinstance(given, dict) else None
    return _TAGS.get(kind) if isinstance(kind, str) else None


_TAGS: Final = {"text": "any-text", "json_object": "json-object", "json_schema": "json-schema"}

AnyText: TypeAlias = Annotated[TextFormat, Tag("any-text")]
BY_TYPE: Final = Discriminator(
    _kind,
    custom_error_type="response_format",
    custom_error_message="its type must be text, json_object or json_schema",
)

ResponseFormat: TypeAlias = Annotated[
    AnyText
    | Annotated[JsonObjectFormat, Tag("json-object")]
    | Annotated[JsonSchemaFormat, Tag("json-schema")],
    BY_TYPE,
]
"""What an answer may be held to."""
