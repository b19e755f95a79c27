"""A chat on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing

from rbee_runtime.engine import Engine
from rbee_runtime.errors import InvalidRequest
from rbee_runtime.events import Finished, Piece
from rbee_runtime.request import Request, SamplingParams


def answer(engine: Engine, request: Request, write: Callable[[str], object]) -> Finished | None:
    """Write a completion as it comes, and return its end; ``None`` if it was interrupted.

    Raises:
        RuntimeFault: The request cannot be served, or failed.
    """
    try:
        with closing(engine.stream(request)) as events:
            for event in events:
                if isinstance(event, Piece):
                    write(event.text)
                elif isinstance(event, Finished):
                    return event
    except KeyboardInterrupt:
        pass
    return None


def summary(end: Finished) -> str:
    """Return a completion's numbers in a line."""
    reused = f" ({end.reused_tokens} of them known)" if end.reused_tokens else ""
    return (
        f"{end.prompt_tokens} prompt tokens{reused} in {end.prefill_seconds:.2f} s, "
        f"{end.completion_tokens} tokens at {end.tokens_per_second:.0f} tokens/s ({end.reason})"
    )


def chat(
    engine: Engine,
    system: str,
    sampling: SamplingParams,
    max_tokens: int | None,
    stop: tuple[str, ...],
) -> None:
    """Talk with whoever sits at the terminal, until the input ends.

    Each turn runs only what is new of it: what was said before is still in the cache.

    Raises:
        InvalidRequest: The model has no chat template.
        RuntimeFault: A turn failed.
    """
    engine.tokenizer.render_chat([{"role": "user", "content": "Hello"}])
    messages = [{"role": "system", "content": system}] if system else []
    print("Ctrl-C ends an answer, Ctrl-D the chat.", file=sys.stderr)
    for number, text in enumerate(_turns()):
        messages.append({"role": "user", "content": text})
        said: list[str] = []

        def write(piece: str, said: list[str] = said) -> None:
            said.append(piece)
            print(piece, end="", flush=True)

        try:
            prompt = engine.tokenizer.render_chat(messages)
            request = Request(f"turn-{number}", prompt, max_tokens, sampling, stop)
            end = answer(engine, request, write)
        except InvalidRequest as error:
            # Too long, mostly. The rest of the chat still stands.
            messages.pop()
            print(f"rbee-generate: {error}", file=sys.stderr)
            continue
        print()
        messages.append({"role": "assistant", "content": "".join(said)})
        if end is not None:
            print(f"[{summary(end)}]", file=sys.stderr)


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
