"""Functions that a chat may call, as clients of the OpenAI API offer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from rbee_runtime.constraint import CallForm, Function, ToolCalls
from rbee_service.openai.messages import FunctionName
from rbee_service.openai.unserved import Part

_NO_PARAMETERS: Final = {"type": "object", "properties": {}, "additionalProperties": False}


class OfferedFunction(Part):
    """A function that may be called.

    Attributes:
        name: Its name.
        description: What it does, for the model to read.
        parameters: JSON schema of its arguments; without one it has none. A keyword in it that
            cannot be enforced is refused.
        strict: Not looked at: a schema is always kept to.
    """

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Part):
    """Something that may be called.

    Attributes:
        type: There is one kind.
        function: What it is.
    """

    type: Literal["function"]
    function: OfferedFunction

    called_parameters: ClassVar[str] = "function.parameters"
    """What the schema of the arguments is called in it."""

    def to_template(self) -> dict[str, Any]:
        """Return what a chat template reads."""
        told: dict[str, Any] = {"name": self.function.name}
        if self.function.description is not None:
            told["description"] = self.function.description
        return {"type": "function", "function": {**told, "parameters": self.arguments()}}

    def arguments(self) -> Mapping[str, Any]:
        """Return the schema of the arguments."""
        given = self.function.parameters
        return _NO_PARAMETERS if given is None else given

    def held_to(self) -> Mapping[str, Any]:
        """Return the schema that the arguments of a call are held to."""
        return self.arguments()


class NamedFunction(Part):
    """A function by its name.

    Attributes:
        name: The name.
    """

    name: FunctionName


class FunctionChoice(Part):
    """One function, which must be called.

    Attributes:
        type: Says so.
        function: Which.
    """

    type: Literal["function"]
    function: NamedFunction


def _tag(given: Any) -> str | None:
    if isinstance(given, str):
        return "any-function"
    named = isinstance(given, dict) and given.get("type") == "function"
    return "one-function" if named else None


AnyFunction: TypeAlias = Annotated[Literal["none", "auto", "required"], Tag("any-function")]
BY_FORM: Final = Discriminator(
    _tag,
    custom_error_type="tool_choice",
    custom_error_message="it must be none, auto, required or a function by its name",
)

ToolChoice: TypeAlias = Annotated[
    AnyFunction | Annotated[FunctionChoice, Tag("one-function")], BY_FORM
]
"""Whether something is called, and what."""


def require_distinct(tools: list[Tool]) -> list[Tool]:
    """Return tools that have names of their own.

    Raises:
        PydanticCustomError: They have not.
    """
    if len({tool.function.name for tool in tools}) < len(tools):
        raise PydanticCustomError("tools", "two functions have one name")
    return tools


Tools: TypeAlias = Annotated[list[Tool], Field(max_length=128), AfterValidator(require_distinct)]
"""All that may be called."""


def require_known(tools: Sequence[Tool], choice: ToolChoice) -> None:
    """Let a choice pass for which there is something to call.

    Raises:
        PydanticCustomError: There is not.
    """
    if choice == "required" and not tools:
        raise PydanticCustomError("tool_choice", "tool_choice required needs tools")
    if isinstance(choice, FunctionChoice) and choice.function.name not in {
        tool.function.name for tool in tools
    }:
        raise PydanticCustomError("tool_choice", "tool_choice must name one of the tools")


def tool_calls(
    tools: Sequence[Tool], choice: ToolChoice, form: CallForm, *, parallel: bool
) -> ToolCalls:
    """Return what an answer is held to that may call some of these, at least one.

    Args:
        tools: All there are.
        choice: Which of them, if not any.
        form: How the model writes calls.
        parallel: Whether there may be several calls.
    """
    functions = [
        Function(tool.function.name, tool.held_to(), f"tools[{number}].{tool.called_parameters}")
        for number, tool in enumerate(tools)
    ]
    if isinstance(choice, FunctionChoice):
        functions = [one for one in functions if one.name == choice.function.name]
        parallel = False  # who names one function wants one call
    return ToolCalls(tuple(functions), form, required=choice != "auto", parallel=parallel)
