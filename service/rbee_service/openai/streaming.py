"""How clients of the OpenAI API ask for an answer as it comes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from rbee_service.openai.unserved import Part


class StreamOptions(Part):
    """How a stream is told.

    Attributes:
        include_usage: Whether a last chunk counts the tokens.
        include_obfuscation: Whether chunks are padded; they are not here.
    """

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class StreamFields(Part):
    """What a request is asked with for a stream.

    Attributes:
        stream: Whether the answer is wanted as it comes.
        stream_options: How.
    """

    stream: bool = False
    stream_options: StreamOptions | None = None

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
    def _options_are_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "stream_options", "stream_options is only allowed when stream is true"
            )
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a count of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage
