"""Results of servers and of starts as tables."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from rbee_bench import layout
from rbee_bench.arrivals import LEAST_LIKE, Arrivals, load
from rbee_bench.chats import Chats
from rbee_bench.cold import Cold
from rbee_bench.percentiles import Percentiles
from rbee_bench.quick import LENGTH, SEQUENCES, Quick
from rbee_bench.stats import paired_ratio, spread

_PERCENTILES = "p50 / p95 / p99"


def arrivals_report(result: Arrivals) -> RenderableType:
    """Lay out what :func:`~rbee_bench.arrivals.measure_arrivals` found, a table for each load."""
    tables, notes, noise = [], [], {}
    for rate in dict.fromkeys(row.rate for row in result.rows):
        at_random = "" if rate is None else " at random"
        table = layout.table(
            f"{result.requests} requests, {load(rate)}{at_random}; times {_PERCENTILES}",
            (
                *("", "first token, s", "between tokens, ms", "whole answer, s"),
                *("tokens/s", "same beginning"),
            ),
        )
        for row in result.rows:
            if row.rate != rate:
                continue
            table.add_row(
                row.label,
                _seconds(row.first),
                _milliseconds(row.between),
                _seconds(row.whole),
                f"{row.throughput:.0f}",
                layout.share(row.alike),
            )
            under = f"{row.label}, {load(rate)}"
            noise[under] = row.spread
            if row.early:
                notes.append(Text(f"{under}: {row.early} answers ended early"))
            if row.alike < LEAST_LIKE:
                text = f"{under}: wrong, if fast: {row.alike:.0%} of its answers begin as those"
                notes.append(Text(f"{text} of {result.reference} do", style="red"))
            for fault, count in row.faults.items():
                notes.append(Text(f"{under}: {count} failed: {fault}", style="red"))
        tables.append(table)
    notes += [Text(f"{label} {note}") for label, note in result.notes.items()]
    return Group(
        *tables,
        *notes,
        *layout.skipped(result.skipped),
        *layout.noise(noise, result.bystanders),
    )


def chats_report(result: Chats) -> RenderableType:
    """Lay out what :func:`~rbee_bench.chats.measure_chats` found."""
    table = layout.table(
        f"{result.chats} chats of {result.turns} turns under one long system message; first token, "
        "ms, p50 / p95",
        ("", "all of it new", "system message known", "chat known", "all chats, s", "spread"),
    )
    noise, notes = {}, []
    for row in result.rows:
        table.add_row(
            row.label,
            *(
                f"{waits.p50 * 1000:.0f} / {waits.p95 * 1000:.0f}"
                for waits in (row.unknown, row.shared, row.continued)
            ),
            f"{statistics.median(row.seconds):.1f}",
            f"{spread(row.seconds):.0%}",
        )
        noise[row.label] = spread(row.seconds)
        if row.faults:
            notes.append(Text(f"{row.label}: {row.faults} requests failed", style="red"))
    notes += [Text(f"{label} {note}") for label, note in result.notes.items()]
    return Group(
        table, *notes, *layout.skipped(result.skipped), *layout.noise(noise, result.bystanders)
    )


def cold_report(result: Cold) -> RenderableType:
    """Lay out what :func:`~rbee_bench.cold.measure_cold` found."""
    table = layout.table(
        "From the start of a process to its first token, and its memory",
        ("", "conversion, once", "first token", "spread", "peak, resident", "after 64 tokens, PSS"),
    )
    for row in result.rows:
        table.add_row(
            row.label,
            "" if row.conversion is None else f"{row.conversion:.1f} s",
            f"{row.median:.2f} s",
            f"{row.spread:.0%}",
            layout.megabytes(row.peak_bytes),
            layout.megabytes(row.serving_bytes),
        )
    noise = {row.label: row.spread for row in result.rows}
    return Group(table, *layout.skipped(result.skipped), *layout.noise(noise, result.bystanders))


def _seconds(waits: Percentiles) -> str:
    return f"{waits.p50:.2f} / {waits.p95:.2f} / {waits.p99:.2f}"


def _milliseconds(waits: Percentiles) -> str:
    return f"{waits.p50 * 1000:.0f} / {waits.p95 * 1000:.0f} / {waits.p99 * 1000:.0f}"


def quick_report(result: Quick) -> RenderableType:
    """Lay out what :func:`~rbee_bench.quick.measure_quick` found, in one table."""
    burst = {row.label: row for row in result.burst.rows}
    cold = {row.label: row for row in result.cold.rows}
    table = layout.table(
        "Tokens a second on the same weights, and what a start takes",
        (
            *("", "decode", f"{SEQUENCES} together", f"prefill of {LENGTH}", "first token"),
            *("memory", "same next token", f"{SEQUENCES} at once, first token, p50"),
        ),
    )
    rows: list[_Summary] = []
    for engine in result.engines:
        name = f"{engine.label}, in process" if engine.ours else engine.label
        rates = (engine.decode, engine.batch, engine.prefill)
        speeds = tuple(f"{statistics.median(rounds):.0f}" for rounds in rates)
        agreed = layout.share(result.agreement.shares[engine.label])
        rows.append(_Summary(name, speeds, agreed, None))
    for label, waits in burst.items():
        name = f"{label}, worker" if waits.ours else label
        rows.append(_Summary(name, ("", "", ""), "", waits.first.p50))
    for row in rows:
        start = cold.get(row.name)
        table.add_row(
            row.name,
            *row.speeds,
            "" if start is None else f"{start.median:.2f} s",
            "" if start is None else layout.megabytes(start.serving_bytes),
            row.agreed,
            "" if row.first is None else f"{row.first:.2f} s",
        )
    ratios = layout.table(
        f"{result.engines[0].label} is", ("", "decode", f"{SEQUENCES} together", "prefill")
    )
    ours = result.engines[0]
    for engine in result.engines[1:]:
        ratios.add_row(
            engine.label,
            *(
                layout.times(paired_ratio(mine, theirs))
                for mine, theirs in (
                    (ours.decode, engine.decode),
                    (ours.batch, engine.batch),
                    (ours.prefill, engine.prefill),
                )
            ),
        )
    contests = [
        [_Rated(engine.label, engine.ours, rates) for engine, rates in rounds]
        for rounds in (
            [(engine, engine.decode) for engine in result.engines],
            [(engine, engine.batch) for engine in result.engines],
            [(engine, engine.prefill) for engine in result.engines],
        )
    ]
    notes = [Text(f"{label} {note}") for label, note in result.burst.notes.items()]
    return Group(
        ratios,
        table,
        *notes,
        *layout.agreement(result.agreement),
        *layout.skipped({**result.skipped, **result.burst.skipped, **result.cold.skipped}),
        *layout.noise({}, result.bystanders, contests),
        layout.versions(engine.version for engine in result.engines),
    )


@dataclass(frozen=True, slots=True)
class _Summary:
    name: str
    speeds: tuple[str, ...]
    agreed: str
    first: float | None


@dataclass(frozen=True, slots=True)
class _Rated:
    label: str
    ours: bool
    rates: tuple[float, ...]
