"""A model whose chat template knows nothing of functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rbee_runtime.constraint import CallForm

if TYPE_CHECKING:
    from rbee_runtime.tokenizer import Tokenizer

FORM: Final = CallForm(
    opening='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    # One that was not taught to call several at once was not taught when to stop either.
    between=None,
    closing="}\n</tool_call>",
    marker="<tool_call>",
)
"""The form that most models with one know."""

_TOLD: Final = """\
You may call functions to help with the request. They are, as JSON:
<tools>
{tools}
</tools>
To call one, answer with its name and its arguments as JSON, in this form and with nothing after it:
<tool_call>
{{"name": "the function's name", "arguments": {{"a parameter": "its value"}}}}
</tool_call>
What comes of it is told you between <tool_response> and </tool_response>."""


_KEPT: Final = ("name", "reasoning_content")
"""What else of a message a template may read."""


@dataclass(frozen=True, slots=True)
class MannerInWords:
    """Says in the system message what may be called and how, and puts all else in plain messages.

    Attributes:
        tokenizer: Has the template.
        takes_system: Whether the template takes a system message; else the user is made to say it.
        form: How calls are asked for.
    """

    tokenizer: Tokenizer
    takes_system: bool
    form: CallForm = FORM

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt; see :class:`~rbee_runtime.tools.manner.CallManner`."""
        plain = [self._plain(message) for message in messages]
        if tools:
            listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
            told = _TOLD.format(tools=listed)
            if plain and plain[0]["role"] == "system":
                told = f"{plain.pop(0)['content']}\n\n{told}"
            plain.insert(0, {"role": "system" if self.takes_system else "user", "content": told})
        return self.tokenizer.render_chat(_joined(plain), variables=variables)

    def _plain(self, message: Mapping[str, Any]) -> dict[str, str]:
        content = message.get("content") or ""
        if message["role"] == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
            return {"role": "user", "content": content}
        calls = [
            (
                call["function"]["name"],
                json.dumps(call["function"]["arguments"], ensure_ascii=False),
            )
            for call in message.get("tool_calls", ())
        ]
        if calls:
            content = "\n".join(filter(None, (content, self.form.write(calls))))
        kept = {name: message[name] for name in _KEPT if name in message}
        return {"role": message["role"], "content": content, **kept}


def _joined(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return messages with those together that one role says in a row: many templates insist."""
    joined: list[dict[str, str]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            content = f"{joined[-1]['content']}\n\n{message['content']}"
            joined[-1] = {**joined[-1], **message, "content": content}
        else:
            joined.append(message)
    return joined
