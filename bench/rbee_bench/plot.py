"""Results as pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rbee_bench.canvas import Bar, PlotFault, bars
from rbee_bench.curves import roofline, speed_up, throughput, waits

_DPI = 160

_KINDS = ("decode", "prefill", "batch", "arrivals", "cold", "quick")


def plot(results: Sequence[Path], directory: Path) -> list[Path]:
    """Draw the results of ``decode``, ``prefill``, ``batch``, ``arrivals``, ``cold`` and ``quick``.

    Each file becomes a picture of its name, but all of ``batch`` become one together; those of
    ``decode``, ``prefill`` and ``batch`` are also drawn together, as ``roofline`` and ``speedup``.

    Args:
        results: Files that ``--json`` wrote.
        directory: Where the pictures go; made if it is not there.

    Returns:
        The pictures.

    Raises:
        PlotFault: Matplotlib is not installed, or a file holds nothing to draw.
        OSError: A file cannot be read or written.
    """
    drawings: dict[str, Callable[[], Any]] = {}
    batches: list[dict[str, Any]] = []
    engines: list[dict[str, Any]] = []
    for file in results:
        document = _read(file)
        kind = next((kind for kind in _KINDS if kind in document), None)
        if kind is None:
            raise PlotFault(f"{file}: nothing to draw; it is no result of {', '.join(_KINDS)}")
        if kind in {"decode", "prefill", "batch"}:
            engines.append(document)
        if kind == "batch":
            batches.append(document)
        else:
            drawings[file.stem] = partial(_ALONE[kind], document)
    if batches:
        drawings["batch"] = partial(throughput, batches)
    if engines:
        drawings |= {"roofline": partial(roofline, engines), "speedup": partial(speed_up, engines)}
    directory.mkdir(parents=True, exist_ok=True)
    pictures = []
    for name, draw in drawings.items():
        drawn = draw()
        if drawn is not None:
            picture = directory / f"{name}.png"
            drawn.savefig(picture, dpi=_DPI)
            pictures.append(picture)
    return pictures


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        document = None
    if not isinstance(document, dict) or "machine" not in document:
        raise PlotFault(f"{file}: not a result that rbee-bench wrote with --json")
    return document


def _decode(document: Mapping[str, Any]) -> Any:
    result = document["decode"]
    panels = {f"{part['context']} tokens before": _of(part["rows"]) for part in result["parts"]}
    title = f"Decode, one sequence: {result['tokens']} new tokens"
    return bars(title, document, panels, "tokens a second")


def _prefill(document: Mapping[str, Any]) -> Any:
    result = document["prefill"]
    panels = {
        f"{length} tokens": _of(row for row in result["rows"] if row["length"] == length)
        for length in result["lengths"]
    }
    return bars("Prefill, one prompt", document, panels, "tokens a second")


def _cold(document: Mapping[str, Any]) -> Any:
    rows = document["cold"]["rows"]
    panels = {
        "process start to first token [seconds]": [
            Bar(row["label"], row["ours"], row["seconds"]) for row in rows
        ],
        "memory after 64 tokens, PSS [MB]": [
            Bar(row["label"], row["ours"], [row["serving_bytes"] / 1e6]) for row in rows
        ],
    }
    return bars("Cold start and memory", document, panels, "")


def _quick(document: Mapping[str, Any]) -> Any:
    rows = document["quick"]["engines"]
    panels = {
        heading: [Bar(row["label"], row["ours"], row[name]) for row in rows]
        for name, heading in (
            ("decode", "decode, one sequence"),
            ("batch", "16 prompts together"),
            ("prefill", "prefill of 256"),
        )
    }
    return bars("On the same weights", document, panels, "tokens a second")


def _of(rows: Iterable[Mapping[str, Any]]) -> list[Bar]:
    return [Bar(row["label"], row["ours"], row["rates"]) for row in rows]


_ALONE: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "decode": _decode,
    "prefill": _prefill,
    "arrivals": waits,
    "cold": _cold,
    "quick": _quick,
}
