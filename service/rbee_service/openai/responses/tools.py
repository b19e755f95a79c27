"""Functions that an answer of the Responses API may call, as its clients offer them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, Tag
from pydantic_core import PydanticCustomError

from rbee_service.openai.tools import (
    BY_FORM,
    AnyFunction,
    FunctionChoice,
    NamedFunction,
    OfferedFunction,
    Tool,
    ToolChoice,
)


class _FlatTool(Tool):
    """A function whose members were not in an object of their own."""

    called_parameters: ClassVar[str] = "parameters"


class ResponsesTool(OfferedFunction):
    """A function that may be called.

    Attributes:
        type: Says so.
    """

    type: Literal["function"]

    def to_chat(self) -> Tool:
        """Return it as chats have it."""
        return _FlatTool.model_construct(type="function", function=self)


class ResponsesFunctionChoice(NamedFunction):
    """One function, which must be called.

    Attributes:
        type: Says so.
    """

    type: Literal["function"]


def _function(given: Any) -> Any:
    if isinstance(given, dict) and given.get("type", "function") != "function":
        raise PydanticCustomError("tool", "only tools of type function are served")
    return given


ResponsesTools: TypeAlias = Annotated[
    list[Annotated[ResponsesTool, BeforeValidator(_function)]], Field(max_length=128)
]
"""All that may be called."""

ResponsesToolChoice: TypeAlias = Annotated[
    AnyFunction | Annotated[ResponsesFunctionChoice, Tag("one-function")], BY_FORM
]
"""Whether something is called, and what."""


def to_chat_choice(choice: ResponsesToolChoice) -> ToolChoice:
    """Return a choice as chats have it."""
    if isinstance(choice, str):
        return choice
    return FunctionChoice.model_construct(type="function", function=choice)
