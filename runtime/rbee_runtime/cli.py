"""``rbee-generate``: a prompt or a chat, answered on the terminal. No server."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rbee_runtime.chat import USUAL_SYSTEM, Manner, ask, ask_in_chat, beginning, chat, summary
from rbee_runtime.constraint import JsonSchema
from rbee_runtime.engine import Engine
from rbee_runtime.errors import InvalidRequest
from rbee_runtime.program import INTERRUPTED, Parser, guarded, read_stdin
from rbee_runtime.reasoning import SWITCHES
from rbee_runtime.request import SamplingParams


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
    if arguments.no_thinking and arguments.raw:
        parser.error("--no-thinking is said in the chat template, which --raw leaves out")
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
            cache_type=arguments.cache_type,
        ) as engine:
            return _generate(engine, arguments, constraint)

    return guarded(parser.prog, work)


def _generate(engine: Engine, arguments: argparse.Namespace, schema: JsonSchema | None) -> int:
    manner = Manner(
        SamplingParams(
            temperature=arguments.temperature, top_p=arguments.top_p, seed=arguments.seed
        ),
        arguments.max_tokens,
        tuple(arguments.stop or ()),
        schema,
        _without_reasoning(engine) if arguments.no_thinking else {},
    )
    if arguments.interactive:
        chat(engine, beginning(engine, arguments.system), manner)
        return 0
    if arguments.raw or engine.tokenizer.chat_template is None:
        end = ask(engine, arguments.prompt, manner)
    else:
        messages = beginning(engine, arguments.system)
        if arguments.prompt:
            messages.append({"role": "user", "content": arguments.prompt})
        end = ask_in_chat(engine, messages, manner)
    if end is None:
        return INTERRUPTED
    print(summary(end), file=sys.stderr)
    return 0


def _without_reasoning(engine: Engine) -> dict[str, bool]:
    """Return what tells a chat template that the model is to answer at once.

    Raises:
        InvalidRequest: The model thinks all the same.
    """
    tokenizer = engine.tokenizer
    switches = [name for name in SWITCHES if name in tokenizer.template_variables]
    if not switches and tokenizer.reasoning_form is not None:
        names = " nor ".join(SWITCHES)
        message = f"--no-thinking: the model's chat template reads neither {names}"
        raise InvalidRequest("no_thinking", message)
    return dict.fromkeys(switches, False)


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
        help="tokens of an answer (default: 256; in a chat, or where the model thinks first, what "
        "the context holds)",
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
        help=f"system message for chat models (default: {USUAL_SYSTEM!r} where the chat template "
        "takes one); '' for none",
    )
    parser.add_argument(
        "--no-thinking",
        action="store_true",
        help="have a model that thinks before it answers do without",
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
    parser.add_argument(
        "--cache-type",
        choices=["int8"],
        help="keep keys and values in 8 bits, on the CPU; default: 16 bits there",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
