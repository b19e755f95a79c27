"""What a completion is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rbee_runtime.constraint.call_form import CallForm
from rbee_runtime.reasoning import Reasoning


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The completion is JSON that a schema admits, and nothing else.

    What a schema asks for that cannot be enforced is refused, never passed over: see
    :func:`~rbee_runtime.constraint.json_schema.check_schema`.

    Attributes:
        schema: The schema, as ``json.loads`` or ``pydantic.BaseModel.model_json_schema`` return it.
        called: What to call it in an error.
    """

    schema: Mapping[str, Any] | bool
    called: str = "json_schema"


@dataclass(frozen=True, slots=True)
class Regex:
    """The completion as a whole matches a regular expression.

    Attributes:
        pattern: In the syntax of Rust's ``regex``: no look-around, no back-references.
        called: What to call it in an error.
    """

    pattern: str
    called: str = "regex"


@dataclass(frozen=True, slots=True)
class Function:
    """A function that a completion may call.

    Attributes:
        name: Of letters, digits, ``_`` and ``-``.
        parameters: JSON schema of its arguments, which are an object.
        called: What to call the schema in an error.
    """

    name: str
    parameters: Mapping[str, Any]
    called: str = "parameters"


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """The completion is text, or calls of functions whose arguments their schemas admit, or both.

    Text comes first and is free: only where a call begins the completion is held to anything, up to
    its end. :class:`~rbee_runtime.tools.CallReader` reads what comes of it.

    Attributes:
        functions: Those that may be called, at least one, each with a name of its own.
        form: How the model writes calls; see :attr:`~rbee_runtime.tokenizer.Tokenizer.call_manner`.
        required: Whether the completion is calls and nothing else.
        parallel: Whether there may be several, where the model writes several.
        called: What to call it in an error.
    """

    functions: tuple[Function, ...]
    form: CallForm
    required: bool = False
    parallel: bool = True
    called: str = "tools"


@dataclass(frozen=True, slots=True)
class AfterReasoning:
    """The completion is reasoning, which is free, and after it what is held to something.

    Where that is a schema, or calls and nothing else, the reasoning has to come to an end.

    Attributes:
        reasoning: How the reasoning is told.
        answer: What comes after it.
    """

    reasoning: Reasoning
    answer: JsonSchema | ToolCalls

    @property
    def called(self) -> str:
        """What to call it in an error."""
        return self.answer.called


Constraint: TypeAlias = JsonSchema | Regex | ToolCalls | AfterReasoning
"""What a completion may be held to."""
