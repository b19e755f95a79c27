"""Asking a model on the terminal, once or turn by turn."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from rbee_runtime.constraint import AfterReasoning, Constraint, JsonSchema
from rbee_runtime.engine import Engine
from rbee_runtime.errors import InvalidRequest
from rbee_runtime.events import Finished, Piece
from rbee_runtime.reasoning import Reasoning, Stage
from rbee_runtime.request import Request, SamplingParams
from rbee_runtime.terminal_answer import TerminalAnswer

USUAL_SYSTEM: Final = "You are a helpful assistant."
"""The system message of who gives none."""

_TOKENS = 256
"""Of an answer to a single prompt that no reasoning comes before, unless asked for otherwise."""

_HELLO: Final = {"role": "user", "content": "Hello"}


@dataclass(frozen=True, slots=True)
class Manner:
    """How a model is to answer.

    Attributes:
        sampling: How tokens are drawn.
        max_tokens: Tokens of an answer, its reasoning included; ``None`` for the default.
        stop: Texts that end it.
        schema: What it is held to, reasoning aside.
        variables: What the chat template is told besides the chat.
    """

    sampling: SamplingParams
    max_tokens: int | None
    stop: tuple[str, ...]
    schema: JsonSchema | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


def ask(engine: Engine, prompt: str, manner: Manner) -> Finished | None:
    """Write what completes a prompt to the terminal, as it comes.

    Returns:
        Its end; ``None`` if it was interrupted.

    Raises:
        RuntimeFault: The request cannot be served, or failed.
    """
    limit = _TOKENS if manner.max_tokens is None else manner.max_tokens
    request = Request(
        "generate", prompt, limit, manner.sampling, manner.stop, constraint=manner.schema
    )
    return _answer(engine, request, None)[1]


def ask_in_chat(
    engine: Engine, messages: Sequence[Mapping[str, str]], manner: Manner
) -> Finished | None:
    """Write the next message of a chat to the terminal; see :func:`ask`."""
    request, reasoning = _next_message(engine, "generate", messages, manner, _TOKENS)
    return _answer(engine, request, reasoning)[1]


def beginning(engine: Engine, system: str | None) -> list[dict[str, str]]:
    """Return the messages that a chat begins with.

    Args:
        engine: Has the model.
        system: The system message, ``""`` for none; ``None`` for the usual one, unless the model's
            chat template refuses it, as that of Gemma does.
    """
    messages = [{"role": "system", "content": USUAL_SYSTEM if system is None else system}]
    if system is None:
        try:
            engine.tokenizer.render_chat([*messages, _HELLO])
        except InvalidRequest:
            return []
    return messages if system != "" else []


def chat(engine: Engine, messages: list[dict[str, str]], manner: Manner) -> None:
    """Talk with whoever sits at the terminal, until the input ends.

    Each turn runs only what is new of it: what was said before is still in the cache.

    Args:
        engine: Has the model.
        messages: What it begins with; what is said is added.
        manner: How the model answers.

    Raises:
        InvalidRequest: The model has no chat template.
        RuntimeFault: A turn failed.
    """
    engine.tokenizer.render_chat([_HELLO])
    print("Ctrl-C ends an answer, Ctrl-D the chat.", file=sys.stderr)
    for number, text in enumerate(_turns()):
        messages.append({"role": "user", "content": text})
        try:
            request, reasoning = _next_message(engine, f"turn-{number}", messages, manner, None)
            written, end = _answer(engine, request, reasoning)
        except InvalidRequest as error:
            # Too long, mostly. The rest of the chat still stands.
            messages.pop()
            print(f"rbee-generate: {error}", file=sys.stderr)
            continue
        messages.append({"role": "assistant", "content": written.text})
        if written.reasoning:
            messages[-1]["reasoning_content"] = written.reasoning
        if end is not None:
            print(f"[{summary(end)}]", file=sys.stderr)


def _next_message(
    engine: Engine,
    name: str,
    messages: Sequence[Mapping[str, str]],
    manner: Manner,
    limit: int | None,
) -> tuple[Request, Reasoning | None]:
    """Return the request for a message, and how its reasoning is told from the answer.

    What is thought first takes as many tokens as it takes: ``limit`` holds where there is none.
    """
    prompt = engine.tokenizer.render_chat(messages, variables=manner.variables)
    form = engine.tokenizer.reasoning_form
    reasoning = None if form is None else form.after(prompt)
    constraint: Constraint | None = manner.schema
    if reasoning is not None and reasoning.stage is not Stage.OVER:
        limit = None
        if manner.schema is not None:
            constraint = AfterReasoning(reasoning, manner.schema)
    request = Request(
        name,
        prompt,
        limit if manner.max_tokens is None else manner.max_tokens,
        manner.sampling,
        manner.stop,
        constraint=constraint,
        shown=frozenset() if form is None else form.shown,
    )
    return request, reasoning


def _answer(
    engine: Engine, request: Request, reasoning: Reasoning | None
) -> tuple[TerminalAnswer, Finished | None]:
    written, end = TerminalAnswer(reasoning), None
    with suppress(KeyboardInterrupt), closing(engine.stream(request)) as events:
        for event in events:
            if isinstance(event, Piece):
                written.write(event.text)
            elif isinstance(event, Finished):
                end = event
    written.end()
    return written, end


def summary(end: Finished) -> str:
    """Return a completion's numbers in a line."""
    reused = f" ({end.reused_tokens} of them known)" if end.reused_tokens else ""
    return (
        f"{end.prompt_tokens} prompt tokens{reused} in {end.prefill_seconds:.2f} s, "
        f"{end.completion_tokens} tokens at {end.tokens_per_second:.0f} tokens/s ({end.reason})"
    )


def _turns() -> Iterator[str]:
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            if sys.stdin.isatty():
                print()  # where the terminal stands after Ctrl-D, the shell would write
            return
        except KeyboardInterrupt:
            print()
            continue
        if text:
            yield text
