"""What a worker withstood, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from rbee_bench import layout
from rbee_bench.faults import Faults
from rbee_bench.hostile import Hostile
from rbee_bench.load import Load
from rbee_bench.logprobs import ALTERNATIVES, Logprobs
from rbee_bench.percentiles import Percentiles
from rbee_bench.speculation import Speculation
from rbee_bench.streaming import Streaming
from rbee_bench.structured import Structured


def faults_report(result: Faults) -> RenderableType:
    """Lay out what :func:`~rbee_bench.faults.measure_faults` found."""
    table = layout.table(
        "what goes wrong, and what the worker does", ("fault", "when", "the worker", "took")
    )
    table.columns[1].justify = table.columns[2].justify = "left"
    for row in result.rows:
        style = None if row.held else "red"
        table.add_row(row.fault, row.stage, row.did, f"{row.seconds:.1f} s", style=style)
    broken = sum(not row.held for row in result.rows)
    if not broken:
        return Group(table, Text(f"all {len(result.rows)} as they must be, and nothing hung"))
    return Group(table, Text(f"{broken} of {len(result.rows)} are not as they must be", "red"))


def streaming_report(result: Streaming) -> RenderableType:
    """Lay out what :func:`~rbee_bench.streaming.measure_streaming` found."""
    return Group(*_overhead(result, "engine alone", "over HTTP"))


def logprobs_report(result: Logprobs) -> RenderableType:
    """Lay out what :func:`~rbee_bench.logprobs.measure_logprobs` found."""
    table = layout.table(
        f"{result.precision}, {result.tokens} tokens a completion; tokens a second",
        ("who answers", "streams", "without", f"logprobs: {ALTERNATIVES}", "cost", "spread"),
    )
    noise = {}
    for place, rows in (("engine", result.engine), ("worker", result.worker)):
        for row in rows:
            without, told = row.rates
            noise[f"{place}, {row.streams} streams"] = row.spread
            figures = f"{without:.0f}", f"{told:.0f}", f"{row.cost:.1%}", layout.share(row.spread)
            table.add_row(place, str(row.streams), *figures)
    return Group(table, *layout.noise(noise, result.bystanders))


def speculation_report(result: Speculation) -> RenderableType:
    """Lay out what :func:`~rbee_bench.speculation.measure_speculation` found."""
    table = layout.table(
        f"{result.precision}, answers at temperature {result.temperature:g}; tokens a second",
        ("asked to", "step by step", "guessing", "ratio", "came true", "spread"),
    )
    for row in result.rows:
        without, under = row.rates
        true = f"{row.accepted} of {row.drafted} guesses, of {row.tokens} tokens"
        figures = f"{without:.0f}", f"{under:.0f}", f"{row.ratio:.2f}", true
        table.add_row(row.task, *figures, layout.share(row.spread))
    noise = {row.task: row.spread for row in result.rows}
    return Group(table, *layout.noise(noise, result.bystanders))


def structured_report(result: Structured) -> RenderableType:
    """Lay out what :func:`~rbee_bench.structured.measure_structured` found."""
    table, *noise = _overhead(result, "held to nothing", "to a schema")
    others = layout.table("otherwise", ("", "found"))
    others.add_row("the first schema of all, more than another", layout.milliseconds(result.first))
    others.add_row("memory after it, more than before", layout.megabytes(result.memory))
    others.add_row("a schema to its first token", layout.milliseconds(result.again))
    for name, gaps in (
        ("between tokens of a free stream", result.alone),
        ("beside four others, held to nothing", result.beside),
        (f"beside {result.asked} requests of four others, with costly schemas", result.attacked),
    ):
        found = Percentiles.of(gaps)
        told = map(layout.milliseconds, (found.p50, found.p95, max(gaps)))
        others.add_row(f"{name}: p50, p95, longest", ", ".join(told))
    return Group(table, others, *noise)


def _overhead(result: Streaming | Structured, without: str, under: str) -> Sequence[RenderableType]:
    """Lay out completions without something and with it, and what noise there was."""
    table = layout.table(
        f"{result.precision}, {result.tokens} tokens a completion; tokens a second",
        ("streams", without, under, "cost", "spread"),
    )
    for row in result.rows:
        rates = (f"{rate:.0f}" for rate in row.rates)
        table.add_row(str(row.streams), *rates, f"{row.cost:.1%}", layout.share(row.spread))
    noise = {f"{row.streams} streams": row.spread for row in result.rows}
    return table, *layout.noise(noise, result.bystanders)


def load_report(result: Load) -> RenderableType:
    """Lay out what :func:`~rbee_bench.load.measure_load` found."""
    table = layout.table(
        f"{result.streams} streams on {result.slots} slots for {result.seconds:.0f} s, "
        f"{result.precision}",
        ("", "found"),
    )
    table.add_row("streams ended, ordered and complete", str(result.ended))
    table.add_row("streams lost", str(result.lost), style="red" if result.lost else None)
    table.add_row("tokens a second", f"{result.tokens / result.seconds:.0f}")
    table.add_row("/health, slowest of 100", layout.milliseconds(result.health_p99))
    table.add_row("/health, slowest", layout.milliseconds(result.health[-1]))
    table.add_row("latest heartbeat was late by", f"{result.late:.2f} s")
    early, last = map(layout.megabytes, result.resident)
    table.add_row("memory after a quarter, and at the end", f"{early}, {last}")
    faults = [Text(fault, style="red") for fault in result.faults]
    return Group(table, *faults, *layout.noise({}, result.bystanders))


def hostile_report(result: Hostile) -> RenderableType:
    """Lay out what :func:`~rbee_bench.hostile.measure_hostile` found."""
    table = layout.table(f"{result.requests} hostile requests", ("answered", "times"))
    for status, count in result.statuses.items():
        table.add_row(str(status) if status else "closed", str(count))
    warm, most = map(layout.megabytes, (result.warm, result.most))
    lines = [
        Text(f"{result.good} good requests in between were completed"),
        Text(
            f"memory {warm} at most until a tenth of them had come, {most} at most after that "
            f"({result.growth:+.1%})"
        ),
    ]
    for what, found in (("not documented", result.unexpected), ("in silence", result.silent)):
        lines += [Text(f"{what}: {name}, {n} times", "red") for name, n in found.items()]
    lines += [Text(f"a good request failed {line}", "red") for line in result.bad]
    return Group(table, *lines)
