"""How a model is told of functions, of its calls and of what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rbee_runtime.constraint import CallForm


class CallManner(Protocol):
    """How one model is talked to about functions.

    Attributes:
        form: How it writes calls.
    """

    @property
    def form(self) -> CallForm: ...  # noqa: D102

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt that asks for the next assistant message.

        Args:
            messages: Each with ``role`` and ``content``. One of an assistant may have
                ``tool_calls``, each with ``function``, whose ``arguments`` are an object; one of
                the role ``tool`` has what came of a call.
            tools: What may be called, each ``{"type": "function", "function": {"name",
                "description", "parameters"}}``; may be empty.
            variables: What else the chat template may read, by name.

        Raises:
            InvalidRequest: The model's chat template rejects them.
        """
