"""How clients of the OpenAI API, and of others like it, say how much a model is to think."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from rbee_runtime.reasoning import SWITCHES
from rbee_service.openai.errors import OpenAiError
from rbee_service.openai.unserved import Part

if TYPE_CHECKING:
    from rbee_service.model_loader import ChatTokenizer

_EFFORT: Final = "reasoning_effort"

_OWN: Final = (
    *("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"),
    *("namespace", "raise_exception", "strftime_now"),
)
"""Variables of a template that are the worker's to give."""

_NAME: Final = "^[a-zA-Z_][a-zA-Z0-9_]{0,63}$"
_MOST_ARGUMENTS: Final = 32
_LONGEST_TEXT: Final = 1024
_LARGEST: Final = 2**53


def _arguments(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    fault = None
    if len(given) > _MOST_ARGUMENTS:
        fault = f"it must have at most {_MOST_ARGUMENTS} members"
    for name, value in given.items():
        if name in _OWN:
            fault = f"{name} is given by this worker"
        elif re.fullmatch(_NAME, name) is None:
            fault = f"every name must match {_NAME}"
        elif not _is_plain(value):
            fault = (
                "every value must be a boolean, a number, null "
                f"or a string of at most {_LONGEST_TEXT} characters"
            )
    if fault is not None:
        raise PydanticCustomError("arguments", "{fault}", {"fault": fault})
    return given


def _is_plain(value: object) -> bool:
    match value:
        case None | bool():
            return True
        case int() | float():
            return math.isfinite(value) and abs(value) <= _LARGEST
        case str():
            return len(value) <= _LONGEST_TEXT
    return False


TemplateArguments: TypeAlias = Annotated[
    dict[str, Any],
    BeforeValidator(_arguments),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": _MOST_ARGUMENTS,
            "propertyNames": {"pattern": _NAME, "not": {"enum": list(_OWN)}},
            "additionalProperties": {
                "anyOf": [
                    {"type": ["boolean", "null"]},
                    {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST},
                    {"type": "string", "maxLength": _LONGEST_TEXT},
                ]
            },
        }
    ),
]
"""Variables for a chat template to read, by name."""


Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much a model is to think."""


class ReasoningFields(Part):
    """What a chat is asked with for reasoning.

    Attributes:
        chat_template_kwargs: What else the model's chat template may read, such as
            ``enable_thinking``. What it does not read makes no difference.
        reasoning_effort: How much the model is to think. Only where its chat template can be told:
            ``none`` switches it off.
    """

    chat_template_kwargs: TemplateArguments = Field(default_factory=dict)
    reasoning_effort: Effort | None = None

    effort_called: ClassVar[str] = _EFFORT
    """What the last is called in a request."""


def template_arguments(tokenizer: ChatTokenizer, fields: ReasoningFields) -> dict[str, Any]:
    """Return what a chat template is told besides the chat.

    Where it has a switch, any effort but ``none`` switches it on; where it reads the effort, it is
    told that; what is said by the template's own names goes before both.

    Raises:
        OpenAiError: It can be told nothing of an effort, and would do otherwise without.
    """
    effort = fields.reasoning_effort
    if effort is None:
        return fields.chat_template_kwargs
    read = tokenizer.template_variables
    told: dict[str, Any] = {name: effort != "none" for name in SWITCHES if name in read}
    if _EFFORT in read and (effort != "none" or not told):
        told[_EFFORT] = effort
    if not told and (effort != "none" or tokenizer.reasoning_form is not None):
        message = (
            f"{fields.effort_called} is not served with this model: "
            f"its chat template reads neither enable_thinking nor {_EFFORT}"
        )
        raise OpenAiError(message, fields.effort_called, "unsupported_parameter")
    return told | fields.chat_template_kwargs
