"""A chat as its model reads it, and what the answer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rbee_runtime.constraint import AfterReasoning, Constraint, ToolCalls
from rbee_runtime.reasoning import Reasoning, Stage
from rbee_service.openai.messages import to_template
from rbee_service.openai.reasoning import template_arguments
from rbee_service.openai.requests import ChatRequest
from rbee_service.openai.tools import tool_calls

if TYPE_CHECKING:
    from rbee_service.model_loader import ChatTokenizer


@dataclass(frozen=True, slots=True)
class WrittenChat:
    """A prompt that asks for the next message of a chat.

    Attributes:
        prompt: It.
        held_to: What the answer is held to.
        calls: Of that, the functions that it may call.
        reasoning: How reasoning before the answer is told; ``None`` if the model knows of none.
        shown: Special tokens that this takes.
    """

    prompt: str
    held_to: Constraint | None = None
    calls: ToolCalls | None = None
    reasoning: Reasoning | None = None
    shown: frozenset[int] = frozenset()


def write_chat(tokenizer: ChatTokenizer, body: ChatRequest) -> WrittenChat:
    """Return the prompt of a chat.

    What may not be called at all is not told to the model either: so it does not call.

    Args:
        tokenizer: Knows how the model wants it.
        body: What was asked for.

    Raises:
        InvalidRequest: The model has no chat template, or it rejects the messages.
        OpenAiError: The model cannot be told how much to think.
    """
    messages, variables = to_template(body.messages), template_arguments(tokenizer, body)
    offered = () if body.tool_choice == "none" else body.tools
    calls = None
    if offered or any({"tool_calls", "tool_call_id"} & one.keys() for one in messages):
        manner = tokenizer.call_manner
        prompt = manner.render(messages, [tool.to_template() for tool in offered], variables)
        if offered:
            parallel = body.parallel_tool_calls
            calls = tool_calls(offered, body.tool_choice, manner.form, parallel=parallel)
    else:
        prompt = tokenizer.render_chat(messages, variables=variables)
    answer = calls or body.constraint
    form = tokenizer.reasoning_form
    if form is None:
        return WrittenChat(prompt, answer, calls)
    reasoning = form.after(prompt)
    held_to: Constraint | None = answer
    if answer is not None and reasoning.stage is not Stage.OVER:
        held_to = AfterReasoning(reasoning, answer)
    return WrittenChat(prompt, held_to, calls, reasoning, form.shown)
