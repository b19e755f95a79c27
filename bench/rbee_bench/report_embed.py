"""Results of embedding models as tables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from rbee_bench import layout
from rbee_bench.embed import RIGHT, TOGETHER, Embed, Texts


def embed_report(result: Embed) -> RenderableType:
    """Lay out what :func:`~rbee_bench.embed.measure_embed` found, a table for each work."""
    noise, tables = {}, []
    for part in result.parts:
        ours = [row for row in part.rows if row.ours]
        waits = ["p50 / p95, ms"] if part.work == "alone" else []
        table = layout.table(
            _title(part),
            ("", "texts/s", "tokens/s", *waits, "spread", *(f"{row.label} is" for row in ours)),
        )
        for row in part.rows:
            p50, p95 = row.waits.p50 * 1000, row.waits.p95 * 1000
            table.add_row(
                row.label,
                f"{row.median:.0f}",
                f"{part.token_rate(row):.0f}",
                *([f"{p50:.2f} / {p95:.2f}"] if waits else []),
                f"{row.spread:.0%}",
                *layout.ratios(row, ours),
            )
            noise[f"{row.label} {part.work}"] = row.spread
        tables.append(table)
    return Group(
        *tables,
        *_alike(result),
        *layout.skipped(result.skipped),
        *layout.noise(noise, result.bystanders, [part.rows for part in result.parts]),
        layout.versions(row.version for part in result.parts for row in part.rows),
    )


def _title(part: Texts) -> str:
    each = f"{part.tokens / part.texts:.0f} tokens each"
    match part.work:
        case "alone":
            return f"One question a call, {each}"
        case "together":
            return f"{TOGETHER} paragraphs a call, {each}"
        case _:
            return f"{part.texts} paragraphs in one call, {each}"


def _alike(result: Embed) -> list[RenderableType]:
    if not result.alike:
        return []
    table = layout.table(
        f"Vectors beside those of {result.reference}",
        ("", "mean cosine", "least cosine", "same paragraph found"),
    )
    wrong = []
    for label, alike in result.alike.items():
        table.add_row(label, f"{alike.mean:.5f}", f"{alike.least:.4f}", layout.share(alike.found))
        if alike.mean < RIGHT:
            text = f"{label}: wrong, however fast: its vectors are others than {result.reference}'s"
            wrong.append(Text(text, style="red"))
    return [table, *wrong]
