"""The measured parts of a README, written from results.

A part stands between ``<!-- rbee-bench NAME -->`` and ``<!-- end -->``, each a line of its own.
What is between them is replaced; the rest is the author's. A part whose results are not there is
left empty.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rbee_bench.arrivals import load
from rbee_bench.readme_table import own, percent, table, where
from rbee_bench.stats import spread
from rbee_bench.subject import UNTUNED

_PART = re.compile(r"^<!-- rbee-bench (\S+) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)

Results = Mapping[str, Mapping[str, Any]]
"""By subcommand, the whole of what its ``--json`` kept."""


class ReadmeFault(Exception):
    """The file or a result cannot be used; one line says why."""


def rewrite(file: Path, directory: Path) -> bool:
    """Write the measured parts of ``file`` anew.

    Args:
        file: A README with parts.
        directory: Holds results that ``--json`` kept; of several of one subcommand, the one whose
            name comes last counts.

    Returns:
        Whether that changed it.

    Raises:
        ReadmeFault: There is a part of no such name, none at all, or a file that is no result.
        OSError: A file cannot be read or written.
    """
    before = file.read_text(encoding="utf-8")
    after = _rewritten(before, _read(directory))
    if after == before:
        return False
    file.write_text(after, encoding="utf-8")
    return True


def _rewritten(text: str, results: Results) -> str:
    def part(found: re.Match[str]) -> str:
        name = found[1]
        if name not in _PARTS:
            raise ReadmeFault(f"no part {name}; there are {', '.join(_PARTS)}")
        needs, write = _PARTS[name]
        body = write(results) if all(kind in results for kind in needs) else ""
        return f"<!-- rbee-bench {name} -->\n{body}<!-- end -->"

    after, count = _PART.subn(part, text)
    if count == 0:
        raise ReadmeFault("it has no parts: lines <!-- rbee-bench NAME --> and <!-- end -->")
    return after


def _read(directory: Path) -> dict[str, dict[str, Any]]:
    results = {}
    for file in sorted(directory.glob("*.json")):
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            kind = document["command"][1]
            if "proof" in document:
                continue  # of the gate, of which no part tells
            document[kind]
        except (ValueError, LookupError, TypeError):
            raise ReadmeFault(f"{file}: not a result that rbee-bench wrote with --json") from None
        results[kind] = document
    return results


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
    batch = results["batch"]["batch"]
    part = max(batch["parts"], key=lambda part: (part["sequences"] == 16, part["sequences"]))
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
    found = results["cold"]["cold"]["rows"]
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


_PARTS: Mapping[str, tuple[Sequence[str], Callable[[Results], str]]] = MappingProxyType(
    {
        "facts": (("parity", "start"), _facts),
        "decode": (("decode", "fidelity"), _decode),
        "prefill": (("prefill",), _prefill),
        "batch": (("batch",), _batch),
        "arrivals": (("arrivals",), _arrivals),
        "chats": (("chats",), _chats),
        "cold": (("cold",), _cold),
        "embed": (("embed",), _embed),
    }
)
