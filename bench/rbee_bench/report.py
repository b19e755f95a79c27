"""Results as tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rbee_bench.batch import Batch
from rbee_bench.bystanders import BUSY
from rbee_bench.decode import Decode
from rbee_bench.fidelity import Fidelity
from rbee_bench.gate import Figure, Gate, Verdict
from rbee_bench.large import Large
from rbee_bench.limits import Limits
from rbee_bench.parity import Parity
from rbee_bench.prefill import Prefill
from rbee_bench.serving import ENTERING, SHARED, STREAMS, Serving
from rbee_bench.start import Start
from rbee_bench.stats import NOISY, paired_ratio, spread


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
    table = _table(
        f"Closeness to the dequantised weights in fp32 over {result.tokens} tokens",
        ("", "mean KL, nats", "same top token"),
    )
    for row in result.rows:
        table.add_row(row.label, f"{row.divergence:.4f}", f"{row.agreement:.1%}")
    versions = _versions([result.reference, *(row.version for row in result.rows)])
    return Group(table, *_skipped(result.skipped), versions)


def decode_report(result: Decode) -> RenderableType:
    """Lay out what :func:`~rbee_bench.decode.measure_decode` found."""
    ours = [row for row in result.rows if row.ours]
    ratios = [f"{row.label} is" for row in ours]
    table = _table(
        f"Decode, one sequence, greedy: {result.tokens} tokens after {result.context}",
        ("", "tokens/s", "spread", "of the roofline", *ratios),
    )
    for row in result.rows:
        times = [_times(paired_ratio(one.rates, row.rates)) for one in ours if one is not row]
        if row.ours:
            times.insert(ours.index(row), "")
        part = result.roofline(row)
        roofline = "" if part is None else f"{part:.0%}"
        table.add_row(row.label, f"{row.median:.1f}", f"{row.spread:.0%}", roofline, *times)
    notes = [
        f"the roofline: memory was read at {_gigabytes(statistics.median(result.bandwidth))} in "
        "order, in the same rounds"
    ]
    notes += [
        f"{row.label}: its text ended early, after {row.tokens + 1} tokens"
        for row in result.rows
        if row.tokens < result.tokens - 1
    ]
    noise = {row.label: row.spread for row in result.rows}
    return Group(
        table,
        *map(Text, notes),
        *_skipped(result.skipped),
        *_noise(noise, result.bystanders),
        _versions(row.version for row in result.rows),
    )


def prefill_report(result: Prefill) -> RenderableType:
    """Lay out what :func:`~rbee_bench.prefill.measure_prefill` found, a table for each length."""
    tables = []
    for length in result.lengths:
        rows = [row for row in result.rows if row.length == length]
        ours = [row for row in rows if row.ours]
        table = _table(
            f"Prefill, one prompt of {length} tokens",
            ("", "tokens/s", "spread", *(f"{row.label} is" for row in ours)),
        )
        for row in rows:
            times = ["" if o is row else _times(paired_ratio(o.rates, row.rates)) for o in ours]
            table.add_row(row.label, f"{row.median:.0f}", f"{row.spread:.0%}", *times)
        tables.append(table)
    noise = {f"{row.label} at {row.length}": row.spread for row in result.rows}
    return Group(
        *tables,
        *_skipped(result.skipped),
        *_noise(noise, result.bystanders),
        _versions(row.version for row in result.rows),
    )


def limits_report(result: Limits) -> RenderableType:
    """Lay out what :func:`~rbee_bench.limits.measure_limits` found."""
    table = _table(f"Limits of {result.threads} threads", ("", "best", "spread"))
    for label, values, shown in (
        ("memory, read in order", result.reading, _gigabytes),
        ("matrix product, fp32", result.fp32, _operations),
        ("matrix product, int8", result.int8, _operations),
    ):
        table.add_row(label, shown(max(values)), f"{spread(values):.0%}")
    spreads = {"memory": spread(result.reading), "fp32": spread(result.fp32)}
    return Group(table, *_noise({**spreads, "int8": spread(result.int8)}, result.bystanders))


def gate_report(result: Gate) -> RenderableType:
    """Lay out what :func:`~rbee_bench.gate.measure_gate` found."""
    table = _table(
        f"This tree beside {result.base}, {result.rounds} rounds by turns",
        ("", result.base, "this tree", "change", "surely within", "at most", ""),
    )
    for figure in result.figures:
        low, high = figure.interval
        table.add_row(
            figure.name,
            _figure(figure, figure.base),
            _figure(figure, figure.this),
            f"{figure.change:+.1%}",
            f"{low:+.1%} to {high:+.1%}" if figure.bounded else "too few rounds",
            f"{figure.limit:+.0%}",
            figure.verdict.value,
        )
    notes = [Text(result.verdict.value)]
    if result.verdict is Verdict.UNDECIDED:
        doubts = f"other programs had {result.bystanders:.0%} of the processor"
        notes.append(Text(f"the machine is too noisy to say: {doubts}; run it when it is quiet"))
    return Group(table, *notes)


def batch_report(result: Batch) -> RenderableType:
    """Lay out what :func:`~rbee_bench.batch.measure_batch` found."""
    ours = [row for row in result.rows if row.ours and row.sequences == result.sequences]
    table = _table(
        f"{result.sequences} prompts of {result.context} tokens together, {result.tokens} new "
        "tokens each, prompts included",
        ("", "at a time", "tokens/s", "spread", *(f"{row.label} is" for row in ours)),
    )
    for row in result.rows:
        times = ["" if one is row else _times(paired_ratio(one.rates, row.rates)) for one in ours]
        count = f"{row.sequences}"
        table.add_row(row.label, count, f"{row.median:.1f}", f"{row.spread:.0%}", *times)
    notes = [
        f"{row.label}: texts ended early, after {row.tokens} of {row.sequences * result.tokens}"
        for row in result.rows
        if row.tokens < row.sequences * result.tokens
    ]
    noise = {row.label: row.spread for row in result.rows}
    return Group(
        table,
        *map(Text, notes),
        *_skipped(result.skipped),
        *_noise(noise, result.bystanders),
        _versions(row.version for row in result.rows),
    )


def serving_report(result: Serving) -> RenderableType:
    """Lay out what :func:`~rbee_bench.serving.measure_serving` found."""
    table = _table(f"Engine, {result.precision}", ("", "", "of", "is", "at most"))

    def compare(what: str, value: float, other: float, of: str, limit: str) -> None:
        share = f"{value / other:.0%}" if value < other else f"{value / other:.1f} x"
        table.add_row(what, _milliseconds(value), f"{_milliseconds(other)} {of}", share, limit)

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
    return Group(table, *_noise({}, result.bystanders))


def start_report(result: Start) -> RenderableType:
    """Lay out what :func:`~rbee_bench.start.measure_start` found."""
    table = _table(f"Worker, {result.precision}, from its start", ("", "", "at most"))
    table.add_row("until ready", f"{result.median:.2f} s (spread {result.spread:.0%})", "3 s")
    bound = _megabytes(result.bound_bytes)
    table.add_row("memory once ready", _megabytes(result.ready_bytes), bound)
    table.add_row("memory after 64 tokens", _megabytes(result.generated_bytes), bound)
    formula = (
        f"at most 1.2 x (weights {_megabytes(result.weights_bytes)} + cache "
        f"{_megabytes(result.cache_bytes)}) + 200 MB; with only the "
        f"{_megabytes(result.cache_used_bytes)} of the cache in use: "
        f"{_megabytes(result.used_bound_bytes)}"
    )
    return Group(table, Text(formula), *_noise({"start": result.spread}, result.bystanders))


def large_report(result: Large) -> RenderableType:
    """Lay out what :func:`~rbee_bench.large.measure_large` found."""
    table = _table(
        f"Export of {result.source_bytes / 1e9:.1f} GB of random bfloat16 weights",
        ("", "of source", "time", "processor", "peak memory", "not of files", "artifact"),
    )
    for row in result.rows:
        table.add_row(
            f"{row.precision}{' + report' if row.verify else ''}",
            f"{result.rate(row):.0f} MB/s",
            f"{row.seconds:.0f} s",
            f"{row.processor_seconds:.0f} s",
            _megabytes(row.peak_bytes),
            _megabytes(row.anonymous_bytes),
            _megabytes(row.artifact_bytes),
        )
    bound = (
        f"without the fidelity report, at most 2 x the largest tensor "
        f"({_megabytes(result.largest_bytes)}) + 500 MB: {_megabytes(result.bound_bytes)}"
    )
    bystanders = max((row.bystanders for row in result.rows), default=0.0)
    return Group(table, Text(bound), *_noise({}, bystanders))


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _times(ratio: float) -> str:
    return f"{ratio:.2f} x"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def _gigabytes(rate: float) -> str:
    return f"{rate / 1e9:.1f} GB/s"


def _operations(rate: float) -> str:
    return f"{rate / 1e9:.0f} GOP/s"


def _figure(figure: Figure, costs: Sequence[float]) -> str:
    cost = statistics.median(costs)
    match figure.unit:
        case "bytes":
            return _megabytes(round(cost))
        case "seconds":
            return f"{cost:.2f} s"
        case "seconds a token":
            return f"{1 / cost:.1f} tokens/s"


def _skipped(skipped: Mapping[str, str]) -> list[Text]:
    return [Text(f"{label}: skipped, {why}") for label, why in skipped.items()]


def _versions(versions: Iterable[str]) -> Text:
    return Text("; ".join(dict.fromkeys(versions)))


def _noise(spreads: Mapping[str, float], bystanders: float) -> list[Text]:
    doubts = [
        f"{label} {value:.0%} spread, over {NOISY:.0%}"
        for label, value in spreads.items()
        if value > NOISY
    ]
    if bystanders > BUSY:
        doubts.append(f"other programs had {bystanders:.0%} of the processor, over {BUSY:.0%}")
    if not doubts:
        return []
    text = f"too noisy to say: {'; '.join(doubts)}; run it again when it is quiet"
    return [Text(text, style="yellow")]
