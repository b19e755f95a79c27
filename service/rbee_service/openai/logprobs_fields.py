"""How clients of the OpenAI API ask for log probabilities in a chat."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from rbee_runtime.logprobs import MOST_ALTERNATIVES
from rbee_service.completion_request import WHOLE
from rbee_service.openai.unserved import Part


class ChatLogprobsFields(Part):
    """What a chat is asked with for log probabilities.

    Attributes:
        logprobs: Tell how likely the model held each token of the answer.
        top_logprobs: Tell of as many of the likeliest tokens in its place, too.
    """

    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES), WHOLE] = 0

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema, with the rule that binds the two."""
        schema = super().__get_pydantic_json_schema__(core, handler)
        asked = {"required": ["logprobs"], "properties": {"logprobs": {"const": True}}}
        without = {"properties": {"top_logprobs": {"enum": [0, None]}}}
        rules = handler.resolve_ref_schema(schema).setdefault("allOf", [])
        rules.append({"anyOf": [without, asked]})
        return schema

    @model_validator(mode="after")
    def _alternatives_are_of_tokens_told(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError(
                "top_logprobs", "top_logprobs is only allowed when logprobs is true"
            )
        return self

    @property
    def alternatives(self) -> int | None:
        """How many likeliest tokens are told beside each; ``None`` if nothing is told of them."""
        return self.top_logprobs if self.logprobs else None
