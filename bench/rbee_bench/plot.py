"""Results as pictures."""

from __future__ import annotations

import importlib
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

# Okabe and Ito's colours, which people who see fewer colours tell apart.
_OURS, _OTHERS = "#0072B2", "#BBBBBB"
_LINES = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#000000", "#999999")
_MARKERS = "osD^vPX*"
_INK = "#333333"
_DPI = 160


class PlotFault(Exception):
    """Nothing can be drawn; one line says why."""


@dataclass(frozen=True, slots=True)
class _Bar:
    label: str
    ours: bool
    rates: Sequence[float]


def plot(results: Sequence[Path], directory: Path) -> list[Path]:
    """Draw the results of ``decode``, ``prefill`` and ``batch``.

    Each file of the first two becomes a picture of its name; all of ``batch`` become one together.

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
    for file in results:
        document = _read(file)
        if "decode" in document:
            drawings[file.stem] = partial(_decode, document)
        elif "prefill" in document:
            drawings[file.stem] = partial(_prefill, document)
        elif "batch" in document:
            batches.append(document)
        else:
            raise PlotFault(f"{file}: no result of decode, prefill or batch, so nothing to draw")
    if batches:
        drawings["batch"] = partial(_batch, batches)
    directory.mkdir(parents=True, exist_ok=True)
    pictures = []
    for name, draw in drawings.items():
        picture = directory / f"{name}.png"
        draw().savefig(picture, dpi=_DPI)
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
    title = f"Decode, one sequence: {result['tokens']} tokens after {result['context']}"
    return _bars(title, document, {"": _of(result["rows"])})


def _prefill(document: Mapping[str, Any]) -> Any:
    result = document["prefill"]
    panels = {
        f"{length} tokens": _of(row for row in result["rows"] if row["length"] == length)
        for length in result["lengths"]
    }
    return _bars("Prefill, one prompt", document, panels)


def _batch(documents: Sequence[Mapping[str, Any]]) -> Any:
    lines: dict[str, dict[int, Sequence[float]]] = defaultdict(dict)
    for document in documents:
        result = document["batch"]
        for row in result["rows"]:
            # The rows that run the same prompts one at a time are of no batch.
            if row["sequences"] == result["sequences"]:
                lines[row["label"]][row["sequences"]] = row["rates"]
    first = documents[0]["batch"]
    what = f"prompts of {first['context']} tokens, {first['tokens']} new ones each"
    figure = _figure(f"Throughput by batch: {what}", documents[0], 7.5, 4.6)
    axes = figure.subplots()
    for place, (label, points) in enumerate(lines.items()):
        sizes = sorted(points)
        quartiles = np.array([np.quantile(points[size], (0.25, 0.5, 0.75)) for size in sizes]).T
        low, middle, high = quartiles
        axes.errorbar(
            sizes,
            middle,
            yerr=(middle - low, high - middle),
            label=label,
            color=_LINES[place % len(_LINES)],
            marker=_MARKERS[place % len(_MARKERS)],
            capsize=3,
        )
    every = sorted({size for points in lines.values() for size in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(every, [str(size) for size in every])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("sequences at a time")
    axes.set_ylabel("new tokens a second, all sequences, prompts included")
    axes.grid(axis="y", color="#dddddd")
    axes.legend(frameon=False)
    return _bare(figure)


def _of(rows: Iterable[Mapping[str, Any]]) -> list[_Bar]:
    return [_Bar(row["label"], row["ours"], row["rates"]) for row in rows]


def _bars(title: str, document: Mapping[str, Any], panels: Mapping[str, Sequence[_Bar]]) -> Any:
    """Draw panels of bars side by side, an engine on the same height in each."""
    most = max(map(len, panels.values()))
    size = 3.4 + 3.2 * len(panels), 1.6 + 0.42 * most
    figure = _figure(title, document, *size, note="; bold and blue: the compiled worker")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (name, bars) in zip(grid, panels.items(), strict=True):
        medians = [statistics.median(bar.rates) for bar in bars]
        quartiles = np.array([np.quantile(bar.rates, (0.25, 0.75)) for bar in bars]).T
        away = np.abs(quartiles - np.array(medians))
        axes.barh(
            range(len(bars)),
            medians,
            xerr=away,
            color=[_OURS if bar.ours else _OTHERS for bar in bars],
            error_kw={"ecolor": _INK, "capsize": 3},
        )
        for place, (median, above) in enumerate(zip(medians, away[1], strict=True)):
            text = f"{median:.0f}" if median >= 10 else f"{median:.1f}"
            axes.annotate(
                text,
                (median + above, place),
                xytext=(6, 0),
                textcoords="offset points",
                verticalalignment="center",
            )
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        axes.set_xlim(0, 1.18 * max(m + a for m, a in zip(medians, away[1], strict=True)))
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("tokens a second")
        axes.grid(axis="x", color="#dddddd")
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    # The other panels share the labels of the first.
    for tick, bar in zip(grid[0].get_yticklabels(), next(iter(panels.values())), strict=True):
        tick.set_fontweight("bold" if bar.ours else "normal")
    grid[0].invert_yaxis()
    return _bare(figure)


def _figure(
    title: str, document: Mapping[str, Any], width: float, height: float, note: str = ""
) -> Any:
    machine = document["machine"]
    try:
        module = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise PlotFault("matplotlib is not installed: pip install matplotlib") from None
    figure: Any = module.Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    where = f"{machine['cpu']}, {machine['cores']} cores; median and quartiles of the rounds{note}"
    figure.supxlabel(where, fontsize=8, color=_INK)
    return figure


def _bare(figure: Any) -> Any:
    for axes in figure.axes:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure
