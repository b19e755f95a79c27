"""The tables of documents, each from the results of one subcommand or a few."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from rbee_bench.arrivals import load
from rbee_bench.markdown_table import own, percent, table, where
from rbee_bench.stats import spread
from rbee_bench.subject import UNTUNED

Results = Mapping[str, Mapping[str, Any]]
"""By subcommand, the whole of what its ``--json`` kept."""


def _facts(results: Results) -> str:
    parity, start = results["parity"]["parity"], results["start"]["start"]
    agreed, tokens = parity["agreed"], parity["tokens"]
    equal = sum(count == tokens for count in agreed)
    weights = start["weights_bytes"] / 1e6
    return table(
        ("", "", "`rbee-bench`"),
        "ll",
        [
            (
                f"greedy at `fp32` equals transformers, {tokens} tokens",
                f"{equal} of {len(agreed)} prompts",
                "`parity`",
            ),
            (
                "from process start to ready",
                f"{statistics.median(start['seconds']):.1f} s",
                "`start`",
            ),
            (
                f"resident memory while serving (weights {weights:.0f} MB)",
                f"{start['generated_bytes'] / 1e6:.0f} MB",
                "`start`",
            ),
        ],
    )


def _overview(results: Results) -> str:
    prefill, part = results["prefill"]["prefill"], _largest_batch(results)
    length = min(prefill["lengths"], key=lambda length: abs(length - 256))
    read = {row["label"]: row for row in prefill["rows"] if row["length"] == length}
    together = {row["label"]: row for row in part["rows"] if row["sequences"] > 1}
    begun = {row["label"].removesuffix(", in process"): row for row in _cold_rows(results)}
    close = {row["label"]: row for row in results["fidelity"]["fidelity"]["rows"]}
    rows = []
    for row in results["decode"]["decode"]["parts"][0]["rows"]:
        label = row["label"]
        if label.endswith(UNTUNED):
            continue
        cold = begun.get(label)
        rows.append(
            own(
                row,
                *(_rate(found.get(label)) for found in ({label: row}, read, together)),
                "" if cold is None else f"{statistics.median(cold['seconds']):.1f} s",
                "" if cold is None else f"{cold['serving_bytes'] / 1e6:.0f} MB",
                _distance(close.get(label), label),
            )
        )
    head = (
        *("on the same weights", "decode, tokens/s", f"prompt of {length}, tokens/s"),
        *(f"{part['sequences']} at once, tokens/s", "start to first token", "memory"),
        "mean KL from fp32",
    )
    *most, last = (f"`{name}`" for name in _OVERVIEW)
    return (
        table(head, "rrrrrr", rows)
        + f"\n`rbee-bench` {', '.join(most)} and {last}. "
        + where(*(results[name] for name in _OVERVIEW))
    )


def _rate(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"{statistics.median(row['rates']):,.0f}"


def _decode(results: Results) -> str:
    part = results["decode"]["decode"]["parts"][0]
    close = {row["label"]: row for row in results["fidelity"]["fidelity"]["rows"]}
    rows = []
    for row in part["rows"]:
        distance = close.get(row["label"].removesuffix(UNTUNED))
        rows.append(
            own(
                row,
                f"{statistics.median(row['rates']):.0f}",
                _distance(distance, row["label"]),
                "" if distance is None else f"{distance['agreement']:.1%}".replace("%", " %"),
            )
        )
    widest = max(spread(row["rates"]) for row in part["rows"])
    tokens = results["fidelity"]["fidelity"]["tokens"]
    head = ("on the same weights, one sequence", "tokens/s", "mean KL from fp32", "same top token")
    return (
        table(head, "rrr", rows)
        + f"\nSpeeds are of `rbee-bench decode`, by turns in one run whose spread reached "
        f"{percent(widest)};\ndistances are of `rbee-bench fidelity` over {tokens:,} tokens. "
        + where(results["decode"])
    )


def _distance(row: Mapping[str, Any] | None, label: str) -> str:
    if row is not None:
        return f"{row['divergence']:.{4 if row['divergence'] < 0.1 else 3}f}"
    return "0, the reference" if label.startswith("eager") else ""


def _batch(results: Results) -> str:
    batch, part = results["batch"]["batch"], _largest_batch(results)
    sequences = part["sequences"]
    rows = []
    for row in part["rows"]:
        rate = f"{statistics.median(row['rates']):.0f}"
        rows.append(own(row, "one" if row["sequences"] == 1 else "all", rate))
    widest = max(spread(row["rates"]) for row in part["rows"])
    head = (
        f"{sequences} prompts of {batch['context']} tokens, {batch['tokens']} new ones each",
        "at a time",
        "tokens/s, prompts included",
    )
    return (
        table(head, "rr", rows)
        + f"\n`rbee-bench batch`, by turns, spread {percent(widest)} at most. "
        + where(results["batch"])
    )


def _largest_batch(results: Results) -> Mapping[str, Any]:
    # Of 16 if it was among them: the figure by which servers are compared.
    parts: list[Mapping[str, Any]] = results["batch"]["batch"]["parts"]
    return max(parts, key=lambda part: (part["sequences"] == 16, part["sequences"]))


def _prefill(results: Results) -> str:
    result = results["prefill"]["prefill"]
    labels = dict.fromkeys(row["label"] for row in result["rows"])
    rows = []
    for label in labels:
        mine = [row for row in result["rows"] if row["label"] == label]
        rates = {row["length"]: f"{statistics.median(row['rates']):.0f}" for row in mine}
        rows.append(own(mine[0], *(rates.get(length, "") for length in result["lengths"])))
    head = "reading one prompt, tokens/s", *(f"{length:,} tokens" for length in result["lengths"])
    return (
        table(head, "r" * len(result["lengths"]), rows)
        + "\n`rbee-bench prefill`. "
        + where(results["prefill"])
    )


def _arrivals(results: Results) -> str:
    result = results["arrivals"]["arrivals"]
    rows = [
        own(
            row,
            load(row["rate"]),
            f"{row['first']['p50']:.2f} / {row['first']['p95']:.2f}",
            f"{row['between']['p50'] * 1000:.0f} / {row['between']['p95'] * 1000:.0f}",
            f"{row['whole']['p50']:.2f} / {row['whole']['p95']:.2f}",
            f"{row['throughput']:.0f}",
        )
        for row in result["rows"]
    ]
    head = (
        *("over HTTP, p50 / p95", "requests", "first token, s", "between tokens, ms"),
        *("whole answer, s", "tokens/s"),
    )
    notes = "; ".join(f"{label} {note}" for label, note in result["notes"].items())
    return (
        table(head, "rrrrr", rows)
        + f"\n`rbee-bench arrivals`: {result['requests']} requests under each load, at random "
        f"times, the same for every server{'; ' if notes else ''}{notes}. "
        + where(results["arrivals"])
    )


def _chats(results: Results) -> str:
    result = results["chats"]["chats"]
    rows = [
        own(
            row,
            *(f"{row[name]['p50'] * 1000:.0f}" for name in ("unknown", "shared", "continued")),
            f"{statistics.median(row['seconds']):.1f}",
        )
        for row in result["rows"]
    ]
    head = (
        f"{result['chats']} chats under one system message; first token, ms",
        *("all of it new", "message known", "chat known", "all turns, s"),
    )
    return table(head, "rrrr", rows) + "\n`rbee-bench chats`. " + where(results["chats"])


def _embed(results: Results) -> str:
    result = results["embed"]["embed"]
    parts = {part["work"]: part for part in result["parts"]}
    bulk = parts["bulk"]
    each = bulk["tokens"] / bulk["texts"]
    rows = []
    for alone, together, whole in zip(*(part["rows"] for part in parts.values()), strict=True):
        waits, alike = alone["waits"], result["alike"].get(alone["label"])
        rows.append(
            own(
                alone,
                f"{waits['p50'] * 1000:.1f} / {waits['p95'] * 1000:.1f}",
                f"{statistics.median(together['rates']):.0f}",
                f"{statistics.median(whole['rates']):.0f}",
                f"{statistics.median(whole['rates']) * each:,.0f}",
                "" if alike is None else f"{alike['mean']:.4f}",
            )
        )
    head = (
        *("embedding texts", "one question, ms, p50 / p95", "32 paragraphs, texts/s"),
        *(f"{bulk['texts']}, texts/s", "tokens/s", "mean cosine to fp32"),
    )
    return (
        table(head, "rrrrr", rows)
        + f"\n`rbee-bench embed`, by turns: paragraphs of {each:.0f} tokens on average. "
        + where(results["embed"])
    )


def _cold(results: Results) -> str:
    found = _cold_rows(results)
    converted = any(row["conversion"] is not None for row in found)
    rows = []
    for row in found:
        cells = [
            f"{statistics.median(row['seconds']):.1f} s",
            f"{row['serving_bytes'] / 1e6:.0f} MB",
            f"{row['peak_bytes'] / 1e6:.0f} MB",
        ]
        if converted:
            seconds = row["conversion"]
            cells.insert(0, "" if seconds is None else f"{seconds:.0f} s")
        rows.append(own(row, *cells))
    head = ["from nothing", "start to first token", "memory, PSS", "peak, resident"]
    if converted:
        head.insert(1, "conversion, once")
    command = f"rbee-bench cold{' --convert' if converted else ''}"
    return table(head, "r" * (len(head) - 1), rows) + f"\n`{command}`. " + where(results["cold"])


def _cold_rows(results: Results) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = results["cold"]["cold"]["rows"]
    return rows


_OVERVIEW: Final = ("decode", "prefill", "batch", "cold", "fidelity")

TABLES: Mapping[str, tuple[Sequence[str], Callable[[Results], str]]] = MappingProxyType(
    {
        "facts": (("parity", "start"), _facts),
        "overview": (_OVERVIEW, _overview),
        "decode": (("decode", "fidelity"), _decode),
        "prefill": (("prefill",), _prefill),
        "batch": (("batch",), _batch),
        "arrivals": (("arrivals",), _arrivals),
        "chats": (("chats",), _chats),
        "cold": (("cold",), _cold),
        "embed": (("embed",), _embed),
    }
)
