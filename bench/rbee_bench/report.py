"""Results as tables."""

from __future__ import annotations

import statistics

from rich.console import Group, RenderableType
from rich.text import Text

from rbee_bench import layout
from rbee_bench.batch import Batch
from rbee_bench.decode import Decode
from rbee_bench.fidelity import Fidelity
from rbee_bench.large import Large
from rbee_bench.limits import Limits
from rbee_bench.parity import Parity
from rbee_bench.prefill import Prefill
from rbee_bench.serving import ENTERING, SHARED, STREAMS, Serving
from rbee_bench.start import Start
from rbee_bench.stats import spread


def parity_report(result: Parity) -> RenderableType:
    """Lay out what :func:`~rbee_bench.parity.measure_parity` found."""
    lines = [
        f"{result.equal} of {len(result.agreed)} prompts: greedy completions of {result.tokens} "
        "tokens equal, token for token",
        f"ours at fp32: {result.ours}; reference: {result.reference}",
    ]
    for number, agreed in enumerate(result.agreed, start=1):
        if agreed < result.tokens:
            lines.append(f"prompt {number}: differs from token {agreed + 1} on")
    return Text("\n".join(lines))


def fidelity_report(result: Fidelity) -> RenderableType:
    """Lay out what :func:`~rbee_bench.fidelity.measure_fidelity` found."""
    table = layout.table(
        f"Closeness to the dequantised weights in fp32 over {result.tokens} tokens",
        ("", "mean KL, nats", "same top token"),
    )
    for row in result.rows:
        table.add_row(row.label, f"{row.divergence:.4f}", f"{row.agreement:.1%}")
    versions = layout.versions([result.reference, *(row.version for row in result.rows)])
    return Group(table, *layout.skipped(result.skipped), versions)


def decode_report(result: Decode) -> RenderableType:
    """Lay out what :func:`~rbee_bench.decode.measure_decode` found, a table for each length."""
    tables, notes, noise = [], [], {}
    agreed = result.agreement
    for part in result.parts:
        ours = [row for row in part.rows if row.ours]
        table = layout.table(
            f"Decode, one sequence, greedy: {result.tokens} tokens after {part.context}",
            (
                *("", "tokens/s", "spread", "of the roofline", "same next token"),
                *(f"{row.label} is" for row in ours),
            ),
        )
        for row in part.rows:
            table.add_row(
                row.label,
                f"{row.median:.1f}",
                f"{row.spread:.0%}",
                layout.share(part.roofline(row)),
                layout.share(agreed.shares[row.label]),
                *layout.ratios(row, ours),
            )
            noise[f"{row.label} after {part.context}"] = row.spread
            if row.tokens < result.tokens - 1:
                text = f"its text ended early, after {row.tokens + 1} tokens of {result.tokens}"
                notes.append(f"{row.label} after {part.context}: {text}")
        tables.append(table)
    bandwidth = statistics.median(roof.reading for part in result.parts for roof in part.roofs)
    notes.insert(0, f"the roofline: memory was read at {layout.gigabytes(bandwidth)} in order")
    return Group(
        *tables,
        *map(Text, notes),
        *layout.agreement(agreed),
        *layout.skipped(result.skipped),
        *layout.noise(noise, result.bystanders, [part.rows for part in result.parts]),
        layout.versions(row.version for part in result.parts for row in part.rows),
    )


def prefill_report(result: Prefill) -> RenderableType:
    """Lay out what :func:`~rbee_bench.prefill.measure_prefill` found, a table for each length."""
    tables, contests = [], []
    for length in result.lengths:
        rows = [row for row in result.rows if row.length == length]
        ours = [row for row in rows if row.ours]
        table = layout.table(
            f"Prefill, one prompt of {length} tokens",
            ("", "tokens/s", "spread", "of the roofline", *(f"{row.label} is" for row in ours)),
        )
        for row in rows:
            table.add_row(
                row.label,
                f"{row.median:.0f}",
                f"{row.spread:.0%}",
                layout.share(result.roofline(row)),
                *layout.ratios(row, ours),
            )
        tables.append(table)
        contests.append(rows)
    noise = {f"{row.label} at {row.length}": row.spread for row in result.rows}
    return Group(
        *tables,
        *layout.agreement(result.agreement),
        *layout.skipped(result.skipped),
        *layout.noise(noise, result.bystanders, contests),
        layout.versions(row.version for row in result.rows),
    )


def limits_report(result: Limits) -> RenderableType:
    """Lay out what :func:`~rbee_bench.limits.measure_limits` found."""
    table = layout.table(f"Limits of {result.threads} threads", ("", "best", "spread"))
    for label, values, shown in (
        ("memory, read in order", result.reading, layout.gigabytes),
        ("matrix product, fp32", result.fp32, layout.operations),
        ("matrix product, int8", result.int8, layout.operations),
    ):
        table.add_row(label, shown(max(values)), f"{spread(values):.0%}")
    spreads = {"memory": spread(result.reading), "fp32": spread(result.fp32)}
    return Group(table, *layout.noise({**spreads, "int8": spread(result.int8)}, result.bystanders))


def batch_report(result: Batch) -> RenderableType:
    """Lay out what :func:`~rbee_bench.batch.measure_batch` found, a table for each number."""
    tables, notes, noise = [], [], {}
    for part in result.parts:
        ours = [row for row in part.rows if row.ours and row.sequences == part.sequences]
        table = layout.table(
            f"{part.sequences} prompts of {result.context} tokens together, {result.tokens} new "
            "tokens each, prompts included",
            (
                *("", "at a time", "tokens/s", "spread", "of the roofline"),
                *(f"{row.label} is" for row in ours),
            ),
        )
        for row in part.rows:
            table.add_row(
                row.label,
                f"{row.sequences}",
                f"{row.median:.1f}",
                f"{row.spread:.0%}",
                layout.share(result.roofline(part, row)),
                *layout.ratios(row, ours),
            )
            noise[f"{row.label} of {part.sequences}"] = row.spread
            wanted = row.sequences * result.tokens
            if row.tokens < wanted:
                text = f"texts ended early, after {row.tokens} tokens of {wanted}"
                notes.append(Text(f"{row.label} of {part.sequences}: {text}"))
        tables.append(table)
        notes += layout.agreement(part.agreement)
        notes += layout.skipped(part.skipped)
    return Group(
        *tables,
        *notes,
        *layout.noise(noise, result.bystanders, [part.rows for part in result.parts]),
        layout.versions(row.version for part in result.parts for row in part.rows),
    )


def serving_report(result: Serving) -> RenderableType:
    """Lay out what :func:`~rbee_bench.serving.measure_serving` found."""
    table = layout.table(f"Engine, {result.precision}", ("", "", "of", "is", "at most"))

    def compare(what: str, value: float, other: float, of: str, limit: str) -> None:
        share = f"{value / other:.0%}" if value < other else f"{value / other:.1f} x"
        table.add_row(
            what, layout.milliseconds(value), f"{layout.milliseconds(other)} {of}", share, limit
        )

    compare(
        f"first token, {SHARED} tokens shared",
        result.known_first_token,
        result.first_token,
        "unshared",
        "15%",
    )
    compare(
        f"{STREAMS} streams, gap while {ENTERING} tokens enter, p99",
        result.entering.p99,
        result.entering.median,
        "median then",
        "3 x",
    )
    compare(
        "the same, beside the quiet", result.entering.p99, result.quiet.median, "median before", ""
    )
    for batch, share in result.overhead.items():
        table.add_row(f"outside the model, {batch} at a time", "", "step", f"{share:.1%}", "8%")
    return Group(table, *layout.noise({}, result.bystanders))


def start_report(result: Start) -> RenderableType:
    """Lay out what :func:`~rbee_bench.start.measure_start` found."""
    table = layout.table(f"Worker, {result.precision}, from its start", ("", "", "at most"))
    table.add_row("until ready", f"{result.median:.2f} s (spread {result.spread:.0%})", "3 s")
    bound = layout.megabytes(result.bound_bytes)
    table.add_row("memory once ready", layout.megabytes(result.ready_bytes), bound)
    table.add_row("memory after 64 tokens", layout.megabytes(result.generated_bytes), bound)
    formula = (
        f"at most 1.2 x (weights {layout.megabytes(result.weights_bytes)} + cache "
        f"{layout.megabytes(result.cache_bytes)}) + 200 MB; with only the "
        f"{layout.megabytes(result.cache_used_bytes)} of the cache in use: "
        f"{layout.megabytes(result.used_bound_bytes)}"
    )
    return Group(table, Text(formula), *layout.noise({"start": result.spread}, result.bystanders))


def large_report(result: Large) -> RenderableType:
    """Lay out what :func:`~rbee_bench.large.measure_large` found."""
    table = layout.table(
        f"Export of {result.source_bytes / 1e9:.1f} GB of random bfloat16 weights",
        ("", "of source", "time", "processor", "peak memory", "not of files", "artifact"),
    )
    for row in result.rows:
        table.add_row(
            f"{row.precision}{' + report' if row.verify else ''}",
            f"{result.rate(row):.0f} MB/s",
            f"{row.seconds:.0f} s",
            f"{row.processor_seconds:.0f} s",
            layout.megabytes(row.peak_bytes),
            layout.megabytes(row.anonymous_bytes),
            layout.megabytes(row.artifact_bytes),
        )
    bound = (
        f"without the fidelity report, at most 2 x the largest tensor "
        f"({layout.megabytes(result.largest_bytes)}) + 500 MB: "
        f"{layout.megabytes(result.bound_bytes)}"
    )
    bystanders = max((row.bystanders for row in result.rows), default=0.0)
    return Group(table, Text(bound), *layout.noise({}, bystanders))
