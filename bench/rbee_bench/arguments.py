"""What ``rbee-bench`` can be asked."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from rbee_bench.large import CASES
from rbee_bench.parity import PROMPTS
from rbee_bench.sample_model import find_sample_embedder, find_sample_model

BAD_ARGUMENTS = 2
_LENGTHS = (32, 256, 1024)
_RATES = (0.5, 1.0, 2.0, None)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print it and exit with 2."""
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser(purpose: str) -> Parser:
    """Return the parser of every subcommand."""
    whole = Parser(prog="rbee-bench", description=purpose)
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    parity = _on_model(commands, "parity", "greedy tokens beside transformers' on the same weights")
    every = range(1, len(PROMPTS) + 1)
    parity.add_argument(
        "--prompts",
        type=int,
        choices=every,
        default=len(PROMPTS),
        metavar="N",
        help=f"how many prompts, 1 to {len(PROMPTS)} (default: all)",
    )
    _count(parity, "--tokens", 64, 1, "tokens of each completion")

    fidelity = _on_model(commands, "fidelity", "distance from the dequantised weights in fp32")
    _count(fidelity, "--tokens", 1024, 1, "tokens of the text to compare")
    fidelity.add_argument("--text", type=Path, help="a UTF-8 text (default: one that is built in)")

    decode = _on_model(commands, "decode", "tokens a second, beside other engines, by turns")
    _count(decode, "--tokens", 128, 2, "tokens of each completion")
    _count(decode, "--rounds", 6, 1, "rounds that count")
    _counts(decode, "--context", (32,), "tokens of the prompts")

    prefill = _on_model(commands, "prefill", "how fast prompts are read, by turns")
    _counts(prefill, "--lengths", _LENGTHS, "tokens of the prompts")
    _count(prefill, "--rounds", 4, 1, "rounds that count")

    batch = _on_model(commands, "batch", "many prompts together, beside other engines, by turns")
    _counts(batch, "--sequences", (16,), "prompts completed together")
    _count(batch, "--tokens", 128, 2, "tokens of each completion")
    _count(batch, "--rounds", 4, 1, "rounds that count")
    _count(batch, "--context", 128, 1, "tokens of each prompt")

    for command in (fidelity, decode, prefill, batch):
        command.add_argument(
            "--cache-type", choices=["int8"], help="measure ours with such a KV cache as well"
        )

    serving = _on_model(commands, "serving", "what the engine costs, and requests cost each other")
    _count(serving, "--rounds", 3, 1, "rounds that count")
    serving.add_argument(
        "--precision",
        choices=("int4", "gguf", "int8", "fp32"),
        default="int4",
        help="of our artifact (default: %(default)s)",
    )

    arrivals = _on_model(commands, "arrivals", "waits over HTTP when requests come at random")
    arrivals.add_argument(
        "--rates",
        type=_rate,
        nargs="+",
        default=list(_RATES),
        metavar="R",
        help="requests a second, or burst for all at once (default: 0.5 1 2 burst)",
    )
    _count(arrivals, "--requests", 16, 1, "requests of a round")
    _count(arrivals, "--rounds", 2, 1, "rounds under each load")

    chats = _on_model(commands, "chats", "waits over HTTP when chats begin alike")
    _count(chats, "--chats", 4, 1, "chats at a time")
    _count(chats, "--rounds", 4, 1, "rounds that count")

    cold = _on_model(commands, "cold", "from a process's start to a first token, and its memory")
    _count(cold, "--rounds", 4, 1, "starts that count")
    cold.add_argument(
        "--convert", action="store_true", help="time what each makes of the model, too: minutes"
    )

    _on_model(commands, "quick", "beside every engine and server in five minutes, in one table")

    start = _on_model(commands, "start", "a worker's time to readiness, and its memory")
    _count(start, "--rounds", 5, 1, "starts that count")

    embed = _command(commands, "embed", "texts embedded, beside other engines for such models")
    _model(embed, find_sample_embedder(), "a directory with an encoder")
    _count(embed, "--texts", 512, 1, "texts that are embedded at once")
    _count(embed, "--rounds", 4, 1, "rounds that count")

    _service(commands)
    _large(commands)
    _files(_command(commands, "limits", "what this machine's memory and arithmetic give at best"))
    _gate(commands)

    tables = _command(commands, "tables", "write the measured tables of documents from results")
    tables.add_argument("documents", type=Path, nargs="+", metavar="FILE.md")
    tables.add_argument("results", type=Path, metavar="DIR", help="what --json kept")

    plot = _command(commands, "plot", "draw results that --json kept")
    plot.add_argument("results", type=Path, nargs="+", metavar="RESULT.json")
    plot.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="where to (default: here)"
    )
    return whole


def _precision(command: Parser) -> None:
    command.add_argument(
        "--precision",
        choices=["int4", "gguf", "int8"],
        default="int4",
        help="of our artifact (default: %(default)s)",
    )


def _service(commands: argparse._SubParsersAction[Parser]) -> None:
    for name, purpose in (
        ("streaming", "what it costs that tokens go out over HTTP"),
        ("logprobs", "what it costs that tokens come with log probabilities"),
        ("structured", "what it costs that completions are held to a JSON schema"),
    ):
        command = _on_model(commands, name, purpose)
        _precision(command)
        _count(command, "--tokens", 128, 1, "tokens of a completion")
        _count(command, "--rounds", 5, 1, "rounds that count")

    speculation = _on_model(commands, "speculation", "what guesses of coming tokens are worth")
    _precision(speculation)
    _count(speculation, "--tokens", 200, 1, "tokens of an answer at most")
    _count(speculation, "--rounds", 5, 1, "rounds that count")
    speculation.add_argument(
        "--temperature", type=float, default=0.7, help="of the answers (default: %(default)s)"
    )

    load = _on_model(commands, "load", "many streams at once on one worker, for a while")
    _count(load, "--streams", 200, 1, "streams at a time")
    _count(load, "--slots", 16, 1, "slots of the worker; the other streams wait")
    _count(load, "--seconds", 60, 2, "for how long")

    hostile = _on_model(commands, "hostile", "requests that mean no good, on one worker")
    _count(hostile, "--requests", 100_000, 1, "requests")

    _on_model(commands, "faults", "what a worker does when all around it fails")


def _large(commands: argparse._SubParsersAction[Parser]) -> None:
    large = _command(
        commands, "large", "speed and memory of exporting a large checkpoint of random weights"
    )
    large.add_argument(
        "--gigabytes",
        type=float,
        default=4.0,
        metavar="N",
        help="size of the checkpoint at least (default: %(default)s)",
    )
    large.add_argument(
        "--directory",
        type=Path,
        default=Path("artifacts"),
        help="where there is room for three times that; left as it was (default: %(default)s)",
    )
    large.add_argument(
        "--precision",
        choices=list(dict.fromkeys(case.precision for case in CASES)),
        help="only this one (default: each)",
    )
    _files(large)


def _gate(commands: argparse._SubParsersAction[Parser]) -> None:
    gate = _command(commands, "gate", "is this tree slower than another revision of it?")
    gate.add_argument("base", metavar="BASE", help="a git revision, e.g. main")
    gate.add_argument(
        "--quick", action="store_true", help="on a small model of random weights, with short turns"
    )
    gate.add_argument(
        "--model",
        type=Path,
        default=find_sample_model(),
        help="a .gguf file or a checkpoint (default: the installed sample model)",
    )
    gate.add_argument(
        "--count", action="store_true", help="time nothing: count instructions of Python only"
    )
    gate.add_argument(
        "--prove",
        type=_at_least(1),
        metavar="N",
        help="try the gate itself N times, on a tree that is its base and on one 10 %% slower",
    )
    # Percent by which this tree is made out to be slower: does the gate notice?
    gate.add_argument("--slowdown", type=float, default=None, help=argparse.SUPPRESS)
    _files(gate)


def _command(commands: argparse._SubParsersAction[Parser], name: str, purpose: str) -> Parser:
    return commands.add_parser(name, help=purpose, description=purpose)


def _on_model(commands: argparse._SubParsersAction[Parser], name: str, purpose: str) -> Parser:
    command = _command(commands, name, purpose)
    _model(command, find_sample_model(), "a quantised .gguf file")
    return command


def _model(command: Parser, default: Path | None, what: str) -> None:
    command.add_argument(
        "--model",
        type=Path,
        default=default,
        help=f"{what} (default: the installed sample model)",
    )
    command.add_argument(
        "--artifacts",
        type=Path,
        default=Path("artifacts"),
        help="directory for what is made of it (default: %(default)s)",
    )
    _files(command)


def _files(command: Parser) -> None:
    command.add_argument("--json", type=Path, metavar="FILE", help="write the raw numbers here")
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write the report here")


def _count(command: Parser, flag: str, default: int, least: int, purpose: str) -> None:
    command.add_argument(
        flag,
        type=_at_least(least),
        default=default,
        metavar="N",
        help=f"{purpose} (default: %(default)s)",
    )


def _counts(command: Parser, flag: str, default: tuple[int, ...], purpose: str) -> None:
    command.add_argument(
        flag,
        type=_at_least(1),
        nargs="+",
        default=list(default),
        metavar="N",
        help=f"{purpose} (default: {_listed(default)})",
    )


def _listed(values: tuple[int, ...]) -> str:
    return " ".join(map(str, values))


def _rate(text: str) -> float | None:
    if text == "burst":
        return None
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _at_least(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return value

    return count
