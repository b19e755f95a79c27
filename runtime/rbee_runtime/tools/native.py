"""A model whose chat template knows functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rbee_runtime.constraint import CallForm

if TYPE_CHECKING:
    from rbee_runtime.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class MessageShape:
    """What a template wants to read of a message that calls.

    Attributes:
        no_content: What stands for no text.
        as_text: Whether arguments are JSON already, and not an object.
    """

    no_content: str | None
    as_text: bool

    def of(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return a message as the template reads it."""
        if "tool_calls" not in message:
            return {**message}
        calls = [
            {**call, "function": {**call["function"], "arguments": self._arguments(call)}}
            for call in message["tool_calls"]
        ]
        content = message.get("content") or self.no_content
        return {**message, "content": content, "tool_calls": calls}

    def _arguments(self, call: Mapping[str, Any]) -> object:
        given = call["function"]["arguments"]
        return json.dumps(given, ensure_ascii=False) if self.as_text else given


@dataclass(frozen=True, slots=True)
class NativeManner:
    """Leaves all telling to the chat template.

    Attributes:
        tokenizer: Has the template.
        form: How the model writes calls.
        shape: What the template reads.
    """

    tokenizer: Tokenizer
    form: CallForm
    shape: MessageShape

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt; see :class:`~rbee_runtime.tools.manner.CallManner`."""
        spelled = [self.shape.of(message) for message in messages]
        return self.tokenizer.render_chat(spelled, tools or None, variables)
