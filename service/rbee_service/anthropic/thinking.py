"""How clients of Anthropic's API say whether a model is to think before it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from rbee_runtime.reasoning import SWITCHES
from rbee_service.anthropic.part import AnthropicPart
from rbee_service.completion_request import WHOLE
from rbee_service.openai.errors import OpenAiError

if TYPE_CHECKING:
    from rbee_service.model_loader import ChatTokenizer

_EFFORT: Final = "reasoning_effort"

AnthropicEffort: TypeAlias = Literal["low", "medium", "high", "xhigh", "max"]
"""How much a model is to put into an answer."""


class ShownThinking(AnthropicPart):
    """The model is to think.

    Attributes:
        type: ``enabled`` where it must be one that can, ``adaptive`` where it does as it can.
        budget_tokens: Not looked at: it thinks as much as it does, within ``max_tokens``.
        display: Whether it is told what it thought, which then comes in full.
    """

    type: Literal["enabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1024), WHOLE] | None = None
    display: Literal["summarized", "omitted"] = "summarized"


class NoThinking(AnthropicPart):
    """The model is not to think.

    Attributes:
        type: Says so.
    """

    type: Literal["disabled"]


_TAGS: Final = {"enabled": "thinking-on", "adaptive": "thinking-on", "disabled": "thinking-off"}


def _tag(given: Any) -> str | None:
    kind = given.get("type") if isinstance(given, dict) else None
    return _TAGS.get(kind) if isinstance(kind, str) else None


Thinking: TypeAlias = Annotated[
    Annotated[ShownThinking, Tag("thinking-on")] | Annotated[NoThinking, Tag("thinking-off")],
    Discriminator(
        _tag,
        custom_error_type="thinking",
        custom_error_message="its type must be enabled, adaptive or disabled",
    ),
]
"""Whether a model is to think."""


def thinking_variables(
    tokenizer: ChatTokenizer, thinking: Thinking | None, effort: AnthropicEffort | None
) -> dict[str, Any]:
    """Return what a chat template is told of it.

    Where it has a switch, that is set; where it reads the effort, it is told that, and otherwise
    the model does as it does: an effort is a hint.

    Args:
        tokenizer: Knows what the template reads.
        thinking: Whether the model is to think, if that was said.
        effort: How much it is to put into the answer, likewise.

    Raises:
        OpenAiError: The model is to think and knows nothing of that, or is not to and cannot be
            told.
    """
    read = tokenizer.template_variables
    switches = [name for name in SWITCHES if name in read]
    off = isinstance(thinking, NoThinking)
    told: dict[str, Any] = {} if thinking is None else dict.fromkeys(switches, not off)
    effort_told: str | None = effort
    if off:
        effort_told = None if switches else "none"
    if _EFFORT in read and effort_told is not None:
        told[_EFFORT] = effort_told
    knows = tokenizer.reasoning_form is not None
    if off and knows and not told:
        message = "this model thinks, and its chat template cannot be told otherwise"
        raise OpenAiError(f"thinking: {message}", "thinking", "unsupported_parameter")
    if isinstance(thinking, ShownThinking) and thinking.type == "enabled" and not knows:
        message = "this model does not think"
        raise OpenAiError(f"thinking: {message}", "thinking", "unsupported_parameter")
    return told
