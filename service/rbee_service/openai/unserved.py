"""What clients of the OpenAI API may not ask for, and how they may name it all the same.

A field that is not served here could change the answer, so it is never passed over in silence. It
may be sent with the value that stands for what is served anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rbee_service.prompt_request import admit_null

_MOST_UNKNOWN: Final = 8
"""Members that are refused of one object. More would only take time: they are not told of."""

NEVER: Final = object()
"""Stands for no value at all."""

UNSERVED: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "audio": NEVER,
        "background": False,
        "best_of": 1,
        "context_management": [],
        "conversation": NEVER,
        "echo": False,
        "function_call": "none",
        "functions": [],
        "logprobs": False,
        "metadata": {},
        "modalities": ["text"],
        "moderation": NEVER,
        "n": 1,
        "parallel_tool_calls": NEVER,
        "previous_response_id": NEVER,
        "prompt": NEVER,
        "prompt_cache_key": NEVER,
        "prompt_cache_options": NEVER,
        "prompt_cache_retention": NEVER,
        "reasoning_effort": NEVER,
        "response_format": {"type": "text"},
        "safety_identifier": NEVER,
        "service_tier": "default",
        "store": False,
        "suffix": "",
        "tool_choice": "none",
        "tools": [],
        "top_logprobs": 0,
        "user": NEVER,
        "verbosity": NEVER,
        "web_search_options": NEVER,
        # Of messages and their parts:
        "annotations": [],
        "name": NEVER,
        "refusal": NEVER,
        "tool_call_id": NEVER,
        "tool_calls": [],
    }
)
"""Fields of the OpenAI API that are not served, each with the value that changes nothing."""


class Part(BaseModel):
    """A base of everything in a body: what is not known is refused, ``null`` means left out."""

    # A worker starts without what it may never be asked: the first who asks waits for it.
    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True
    )

    unserved: ClassVar[Mapping[str, Any]] = UNSERVED
    """What else clients may name, each with the value that changes nothing."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_changes_nothing(cls, members: Any) -> Any:
        if not isinstance(members, dict):
            return members
        kept, unknown = {}, 0
        for name, value in members.items():
            if value is None:
                continue
            if name not in cls.model_fields:
                if unknown == _MOST_UNKNOWN or _same(value, cls.unserved.get(name, NEVER)):
                    continue
                unknown += 1
            kept[name] = value
        return kept

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema, with what may be said besides because it changes nothing."""
        schema = handler(core)
        members = handler.resolve_ref_schema(schema)
        admit_null(members)
        members["properties"] |= {
            name: {"type": "null"} if neutral is NEVER else {"enum": [neutral, None]}
            for name, neutral in cls.unserved.items()
            if name not in cls.model_fields
        }
        members["additionalProperties"] = {"type": "null"}
        return schema


def _same(value: object, neutral: object) -> bool:
    # 1 is not true here, nor 0 false; 1.0 is 1, as in any JSON.
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral
