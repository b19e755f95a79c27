"""Tools that an answer of the Messages API may use, as its clients offer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from rbee_runtime.constraint.relaxed import relaxed
from rbee_service.anthropic.blocks import ToolName
from rbee_service.anthropic.part import AnthropicPart, CachedPart
from rbee_service.openai.tools import (
    FunctionChoice,
    NamedFunction,
    OfferedFunction,
    Tool,
    ToolChoice,
    require_distinct,
)


class _OfferedTool(Tool):
    """A tool of this API as chats have it."""

    called_parameters: ClassVar[str] = "input_schema"

    def held_to(self) -> Mapping[str, Any]:
        """Return the schema that the input is held to: all of it only where that is promised."""
        return self.arguments() if self.function.strict else relaxed(self.arguments())


class CustomTool(CachedPart):
    """A tool of the client's.

    Attributes:
        type: There is one kind.
        name: Its name.
        description: What it does, for the model to read.
        input_schema: JSON schema of its input, which is an object.
        strict: Whether all of the schema is enforced, and refused where it cannot be. Else what
            cannot be enforced is told to the model alone.
        input_examples: Told to the model with the schema.
        eager_input_streaming: Not looked at: input is always told as it is written.
        defer_loading: The model is told of all tools.
        allowed_callers: Nobody but the model calls.
    """

    type: Literal["custom"] = "custom"
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool = False
    input_examples: list[dict[str, Any]] = Field(default_factory=list)
    eager_input_streaming: bool = False
    defer_loading: Literal[False] = False
    allowed_callers: Annotated[list[Literal["direct"]], Field(max_length=16, fail_fast=True)] = (
        Field(default_factory=list)
    )

    def to_chat(self) -> Tool:
        """Return it as chats have it."""
        schema = self.input_schema
        if self.input_examples:
            schema = {**schema, "examples": self.input_examples}
        function = OfferedFunction.model_construct(
            name=self.name, description=self.description, parameters=schema, strict=self.strict
        )
        return _OfferedTool.model_construct(type="function", function=function)


def _custom(given: Any) -> Any:
    if isinstance(given, dict) and given.get("type") not in (None, "custom"):
        raise PydanticCustomError("tool", "only tools of type custom are served")
    return given


def _distinct(tools: list[CustomTool]) -> list[CustomTool]:
    require_distinct([tool.to_chat() for tool in tools])
    return tools


CustomTools: TypeAlias = Annotated[
    list[Annotated[CustomTool, BeforeValidator(_custom)]],
    Field(max_length=128),
    AfterValidator(_distinct),
]
"""All that may be used."""


class _Choice(AnthropicPart):
    """A base of all choices.

    Attributes:
        disable_parallel_tool_use: Whether at most one tool is used at once.
    """

    disable_parallel_tool_use: bool = False


class OpenChoice(_Choice):
    """Any tool, or none.

    Attributes:
        type: ``auto`` where the model decides whether it uses one, ``any`` where it must, ``none``
            where it must not.
    """

    type: Literal["auto", "any", "none"]


class OneToolChoice(_Choice):
    """One tool, which must be used.

    Attributes:
        type: Says so.
        name: Which.
    """

    type: Literal["tool"]
    name: ToolName


def _tag(given: Any) -> str | None:
    kind = given.get("type") if isinstance(given, dict) else None
    return {"tool": "one-tool"}.get(kind, "any-tool") if isinstance(kind, str) else None


ToolUseChoice: TypeAlias = Annotated[
    Annotated[OpenChoice, Tag("any-tool")] | Annotated[OneToolChoice, Tag("one-tool")],
    Discriminator(
        _tag,
        custom_error_type="tool_choice",
        custom_error_message="its type must be auto, any, tool or none",
    ),
]
"""Whether a tool is used, and which."""


def require_offered(choice: ToolUseChoice, tools: Sequence[CustomTool]) -> None:
    """Let a choice pass for which there is something to use.

    Raises:
        PydanticCustomError: There is not.
    """
    if choice.type == "any" and not tools:
        raise PydanticCustomError("tool_choice", "tool_choice any needs tools")
    if isinstance(choice, OneToolChoice) and choice.name not in {tool.name for tool in tools}:
        raise PydanticCustomError("tool_choice", "tool_choice must name one of the tools")


def to_chat_choice(choice: ToolUseChoice) -> ToolChoice:
    """Return a choice as chats have it."""
    match choice:
        case OneToolChoice(name=name):
            function = NamedFunction.model_construct(name=name)
            return FunctionChoice.model_construct(type="function", function=function)
        case OpenChoice(type="any"):
            return "required"
        case OpenChoice(type="none"):
            return "none"
    return "auto"
