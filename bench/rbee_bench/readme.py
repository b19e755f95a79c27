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
    return _table(
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
            _own(
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
        _table(head, "rrr", rows)
        + f"\nSpeeds are of `rbee-bench decode`, by turns in one run whose spread reached "
        f"{_percent(widest)};\ndistances are of `rbee-bench fidelity` over {tokens:,} tokens. "
        + _where(results["decode"])
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
        rows.append(_own(row, "one" if row["sequences"] == 1 else "all", rate))
    widest = max(spread(row["rates"]) for row in part["rows"])
    head = (
        f"{sequences} prompts of {batch['context']} tokens, {batch['tokens']} new ones each",
        "at a time",
        "tokens/s, prompts included",
    )
    return (
        _table(head, "rr", rows)
        + f"\n`rbee-bench batch`, by turns, spread {_percent(widest)} at most. "
        + _where(results["batch"])
    )


def _prefill(results: Results) -> str:
    result = results["prefill"]["prefill"]
    labels = dict.fromkeys(row["label"] for row in result["rows"])
    rows = []
    for label in labels:
        mine = [row for row in result["rows"] if row["label"] == label]
        rates = {row["length"]: f"{statistics.median(row['rates']):.0f}" for row in mine}
        rows.append(_own(mine[0], *(rates.get(length, "") for length in result["lengths"])))
    head = "reading one prompt, tokens/s", *(f"{length:,} tokens" for length in result["lengths"])
    return (
        _table(head, "r" * len(result["lengths"]), rows)
        + "\n`rbee-bench prefill`. "
        + _where(results["prefill"])
    )


def _arrivals(results: Results) -> str:
    result = results["arrivals"]["arrivals"]
    rows = [
        _own(
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
        _table(head, "rrrrr", rows)
        + f"\n`rbee-bench arrivals`: {result['requests']} requests under each load, at random "
        f"times, the same for every server{'; ' if notes else ''}{notes}. "
        + _where(results["arrivals"])
    )


def _chats(results: Results) -> str:
    result = results["chats"]["chats"]
    rows = [
        _own(
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
    return _table(head, "rrrr", rows) + "\n`rbee-bench chats`. " + _where(results["chats"])


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
        rows.append(_own(row, *cells))
    head = ["from nothing", "start to first token", "memory, PSS", "peak, resident"]
    if converted:
        head.insert(1, "conversion, once")
    command = f"rbee-bench cold{' --convert' if converted else ''}"
    return _table(head, "r" * (len(head) - 1), rows) + f"\n`{command}`. " + _where(results["cold"])


def _own(row: Mapping[str, Any], *cells: str) -> tuple[str, ...]:
    """Return a table's row; one of the compiled worker's in bold."""
    if not row["ours"]:
        return row["label"], *cells
    name, comma, more = row["label"].partition(", ")
    return f"**`{name}`**{comma}{more}", *(f"**{cell}**" if cell else "" for cell in cells)


def _table(head: Sequence[str], align: str, rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" if side == "r" else "---" for side in align)]
    lines = [head, rule, *rows]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def _where(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    cores = f"{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}"
    commit = document.get("commit")
    return f"{cores}{f', at {commit}' if commit else ''}.\n"


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


_PARTS: Mapping[str, tuple[Sequence[str], Callable[[Results], str]]] = MappingProxyType(
    {
        "facts": (("parity", "start"), _facts),
        "decode": (("decode", "fidelity"), _decode),
        "prefill": (("prefill",), _prefill),
        "batch": (("batch",), _batch),
        "arrivals": (("arrivals",), _arrivals),
        "chats": (("chats",), _chats),
        "cold": (("cold",), _cold),
    }
)
