"""``rbee-generate``: a prompt or a chat, answered on the terminal. No server."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rbee_runtime.chat import answer, chat, summary
from rbee_runtime.constraint import JsonSchema
from rbee_runtime.engine import Engine
from rbee_runtime.program import INTERRUPTED, Parser, guarded, read_stdin
from rbee_runtime.request import Request, SamplingParams

_TOKENS = 256
"""Tokens of an answer to a single prompt, unless asked for otherwise."""


def main(argv: list[str] | None = None) -> int:
    """Run the program.

    Returns:
        The exit code: 0 done, or see :func:`~rbee_runtime.program.guarded`.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.interactive and arguments.prompt is not None:
        parser.error("give either a prompt or --interactive")
    if arguments.interactive and arguments.json_schema is not None:
        parser.error("a chat is held to no schema: --json-schema does not go with --interactive")
    if arguments.interactive and arguments.raw:
        parser.error("a chat needs the chat template: --raw does not go with --interactive")
    if not arguments.interactive and arguments.prompt in (None, "-"):
        arguments.prompt = _prompt_of_stdin(parser, asked=arguments.prompt is not None)
    constraint = None
    if arguments.json_schema is not None:
        constraint = _schema_of(parser, arguments.json_schema)

    def work() -> int:
        with Engine.load(
            arguments.model,
            backend=arguments.backend,
            fallback=arguments.fallback,
            device=arguments.device,
            slots=1,
        ) as engine:
            return _generate(engine, arguments, constraint)

    return guarded(parser.prog, work)


def _generate(engine: Engine, arguments: argparse.Namespace, constraint: JsonSchema | None) -> int:
    sampling = SamplingParams(
        temperature=arguments.temperature, top_p=arguments.top_p, seed=arguments.seed
    )
    stop = tuple(arguments.stop or ())
    if arguments.interactive:
        chat(engine, arguments.system, sampling, arguments.max_tokens, stop)
        return 0
    prompt: str = arguments.prompt
    if not arguments.raw and engine.tokenizer.chat_template is not None:
        roles = {"system": arguments.system, "user": prompt}
        messages = [{"role": role, "content": text} for role, text in roles.items() if text]
        prompt = engine.tokenizer.render_chat(messages)
    limit = _TOKENS if arguments.max_tokens is None else arguments.max_tokens
    request = Request("generate", prompt, limit, sampling, stop, constraint=constraint)
    end = answer(engine, request, lambda text: print(text, end="", flush=True))
    print()
    if end is None:
        return INTERRUPTED
    print(summary(end), file=sys.stderr)
    return 0


def _prompt_of_stdin(parser: argparse.ArgumentParser, *, asked: bool) -> str:
    if sys.stdin is None or (sys.stdin.isatty() and not asked):
        parser.error("give a prompt, or - to read it from standard input, or --interactive")
    prompt = read_stdin(parser)
    if not prompt:
        parser.error("give a prompt: standard input holds none")
    return prompt


def _schema_of(parser: argparse.ArgumentParser, file: Path) -> JsonSchema:
    try:
        return JsonSchema(json.loads(file.read_bytes()), called=f"--json-schema {file}")
    except OSError as error:
        parser.error(f"--json-schema {file}: {error.strerror or error}")
    except (ValueError, RecursionError) as error:
        parser.error(f"--json-schema {file}: not JSON: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="rbee-generate", description="Stream a compiled model's answers to the terminal."
    )
    parser.add_argument(
        "prompt", nargs="?", help="what to ask; - or nothing reads it from standard input"
    )
    parser.add_argument(
        "--interactive", action="store_true", help="chat, turn by turn, instead of one prompt"
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="an artifact directory made by rbee-export"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        help=f"tokens of an answer (default: {_TOKENS}; in a chat, what the context holds)",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 to 2; 0, the default, is greedy"
    )
    parser.add_argument("--top-p", type=float, default=1.0, help="0 to 1; default: %(default)s")
    parser.add_argument("--seed", type=int, help="repeats a sampled answer; default: drawn")
    parser.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text; may be repeated"
    )
    parser.add_argument(
        "--json-schema",
        type=Path,
        metavar="FILE",
        help="a JSON schema that the answer is held to",
    )
    parser.add_argument(
        "--system",
        default="You are a helpful assistant.",
        help="system message for chat models; default: %(default)s",
    )
    parser.add_argument(
        "--raw", action="store_true", help="send the prompt as it is, without the chat template"
    )
    parser.add_argument(
        "--backend", help="cpu, cuda or tensorrt; default: the best that works here"
    )
    parser.add_argument(
        "--fallback", choices=["cuda"], help="run on that where TensorRT does not work"
    )
    parser.add_argument(
        "--device", type=int, default=0, help="index of the GPU; default: %(default)s"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
