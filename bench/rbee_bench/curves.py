"""Pictures of more than one result, and of more than one load."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rbee_bench.canvas import GRID, INK, bare, figure, styles
from rbee_bench.subject import UNTUNED

Document = Mapping[str, Any]

_REFERENCE = "eager torch fp32"
_ROUNDS = "; median and quartiles of the rounds"


def throughput(documents: Sequence[Document]) -> Any:
    """Draw new tokens a second by how many sequences there are at a time."""
    lines: dict[str, dict[int, Sequence[float]]] = defaultdict(dict)
    for document in documents:
        for part in document["batch"]["parts"]:
            for row in part["rows"]:
                # The rows that run the same prompts one at a time are of no batch.
                if row["sequences"] == part["sequences"]:
                    lines[row["label"]][row["sequences"]] = row["rates"]
    first = documents[0]["batch"]
    what = f"prompts of {first['context']} tokens, {first['tokens']} new ones each"
    drawn = figure(f"Throughput by batch: {what}", documents[0], 7.5, 4.6, _ROUNDS)
    axes = drawn.subplots()
    every = sorted({size for points in lines.values() for size in points})
    for label, (colour, marker) in styles(list(lines)).items():
        sizes = sorted(lines[label])
        quartiles = np.array([np.quantile(lines[label][size], (0.25, 0.5, 0.75)) for size in sizes])
        low, middle, high = quartiles.T
        axes.errorbar(
            sizes,
            middle,
            yerr=(middle - low, high - middle),
            label=label,
            color=colour,
            marker=marker,
            capsize=3,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(every, [str(size) for size in every])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("sequences at a time")
    axes.set_ylabel("new tokens a second,\nall sequences, prompts included")
    axes.grid(axis="y", color=GRID)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return bare(drawn)


def waits(document: Document) -> Any:
    """Draw the percentiles of each wait by load: half, and 95 in a hundred."""
    result = document["arrivals"]
    rows = [row for row in result["rows"] if row["rate"] is not None]
    rates = sorted({row["rate"] for row in rows})
    panels = (
        ("first", "to the first token", "seconds", 1.0),
        ("between", "from token to token", "milliseconds", 1000.0),
        ("whole", "to the end of the answer", "seconds", 1.0),
    )
    title = "Waits by load, requests at random over HTTP"
    drawn = figure(title, document, 11.5, 4.0, "; full lines: half wait at most that, dashed: 95 %")
    grid = drawn.subplots(1, len(panels))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    for axes, (name, heading, unit, scale) in zip(grid, panels, strict=True):
        for label, (colour, marker) in styles(labels).items():
            mine = sorted((r for r in rows if r["label"] == label), key=lambda row: row["rate"])
            at = [row["rate"] for row in mine]
            for percentile, dashes in (("p50", "-"), ("p95", "--")):
                axes.plot(
                    at,
                    [row[name][percentile] * scale for row in mine],
                    linestyle=dashes,
                    color=colour,
                    marker=marker,
                    markersize=5,
                    label=label if percentile == "p50" else None,
                )
        axes.set_title(heading, fontsize=10)
        axes.set_xlabel("requests a second")
        axes.set_ylabel(unit)
        axes.set_xscale("log", base=2)
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.yaxis.set_major_locator(_ticks())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.grid(axis="y", color=GRID)
    handles, names = grid[0].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside right upper", frameon=False, fontsize=9)
    return bare(drawn)


@dataclass(frozen=True, slots=True)
class _Point:
    """An engine at some work, or one that is ``times`` as fast as eager torch at it."""

    work: str
    label: str
    ours: bool
    intensity: float
    speed: float
    rates: Sequence[float]


def roofline(documents: Sequence[Document]) -> Any | None:
    """Draw operations a second over operations a byte, under the machine's limits.

    ``None`` where nothing is known of what the engines read.
    """
    points = [point for point in _few(documents) if point.speed]
    roofs = [roof for document in documents for roof in _roofs(document)]
    if not points or not roofs:
        return None
    reading, fp32, int8 = (
        statistics.median(roof[name] for roof in roofs) for name in ("reading", "fp32", "int8")
    )
    drawn = figure("Roofline", documents[0], 8.6, 5.2, "; medians; the roofs are measured")
    axes = drawn.subplots()
    low = min(point.intensity for point in points) / 2
    high = max(max(point.intensity for point in points) * 2, int8 / reading * 2)
    for peak, name in ((fp32, "fp32"), (int8, "int8")):
        corner = peak / reading
        axes.plot([low, corner, high], [low * reading / 1e9, peak / 1e9, peak / 1e9], color=INK)
        axes.annotate(
            f"{name}, {peak / 1e9:.0f} GOP/s",
            (high, peak / 1e9),
            xytext=(-4, 4),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=8,
        )
    # The angle of the line as drawn, which depends on the axes.
    slope = math.degrees(math.atan(reading / 1e9))
    axes.text(
        low * 1.2,
        low * 2 * reading / 1e9,
        f"memory, {reading / 1e9:.0f} GB/s",
        rotation=slope,
        rotation_mode="anchor",
        transform_rotates_text=True,
        fontsize=8,
    )
    works = list(dict.fromkeys(point.work for point in points))
    shapes = dict(zip(works, "osD^vPX*<>" * len(works), strict=False))
    colours = styles(list(dict.fromkeys(point.label for point in points)))
    for point in points:
        axes.plot(
            point.intensity,
            point.speed / 1e9,
            shapes[point.work],
            color=colours[point.label][0],
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
    for name, (colour, _) in colours.items():
        axes.plot([], [], color=colour, linewidth=6, label=name)
    for work, shape in shapes.items():
        axes.plot([], [], shape, color="none", markeredgecolor=INK, label=work)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations for each byte that has to be read")
    axes.set_ylabel("10⁹ operations a second")
    axes.grid(color=GRID)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return bare(drawn)


def speed_up(documents: Sequence[Document]) -> Any | None:
    """Draw how many times as fast as eager torch each engine is; ``None`` where that did not run.

    The ratio is the median of the rounds' ratios.
    """
    points = _few(documents)
    base = {point.work: point.rates for point in points if point.label == _REFERENCE}
    points = [point for point in points if point.work in base and point.label != _REFERENCE]
    if not points:
        return None
    works = list(dict.fromkeys(point.work for point in points))
    labels = list(dict.fromkeys(point.label for point in points))
    width = 0.8 / len(labels)
    drawn = figure("Speed-up over eager torch", documents[0], 4.2 + 1.1 * len(works), 4.2, _ROUNDS)
    axes = drawn.subplots()
    for number, (label, (colour, _)) in enumerate(styles(labels).items()):
        for point in points:
            if point.label != label:
                continue
            pairs = zip(point.rates, base[point.work], strict=True)
            low, middle, high = np.quantile([a / b for a, b in pairs], (0.25, 0.5, 0.75))
            place = works.index(point.work) + (number - (len(labels) - 1) / 2) * width
            axes.bar(place, middle, width * 0.92, color=colour)
            axes.errorbar(place, middle, [[middle - low], [high - middle]], ecolor=INK, capsize=2)
            axes.annotate(
                f"{middle:.1f}",
                (place, high),
                xytext=(0, 3),
                textcoords="offset points",
                horizontalalignment="center",
                fontsize=7,
            )
        axes.plot([], [], color=colour, linewidth=6, label=label)
    axes.axhline(1.0, color=INK, linewidth=1)
    axes.set_xticks(range(len(works)), [work.replace(", ", ",\n") for work in works], fontsize=9)
    axes.set_ylabel("times as fast as eager torch")
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    drawn.legend(loc="outside right upper", frameon=False, fontsize=9)
    return bare(drawn)


def _few(documents: Sequence[Document]) -> list[_Point]:
    """Return the points of the first and the last work of each kind: more cannot be told apart."""
    points = [point for document in documents for point in _points(document)]
    works: dict[str, list[str]] = defaultdict(list)
    for point in points:
        kind, _, _ = point.work.partition(", ")
        works[kind].append(point.work)
    shown = {work for each in works.values() for work in (each[0], each[-1])}
    return [point for point in points if point.work in shown]


def _points(document: Document) -> Iterator[_Point]:
    """Yield every tuned engine at every work of a result; ``speed`` is 0 where it is not known."""
    if "decode" in document:
        result = document["decode"]
        for part in result["parts"]:
            middle = part["context"] + result["tokens"] / 2
            for row in _tuned(part["rows"]):
                work = f"decode, {part['context']} before"
                yield _point(work, row, 1, middle)
    elif "prefill" in document:
        for row in document["prefill"]["rows"]:
            work = f"prefill, {row['length']} tokens"
            yield _point(work, row, row["length"], 0)
    elif "batch" in document:
        result = document["batch"]
        for part in result["parts"]:
            for row in part["rows"]:
                if row["sequences"] == part["sequences"]:
                    size, new = row["sequences"], result["tokens"]
                    work = f"batch, {size} together"
                    every = (result["context"] + new) / new
                    middle = size * (result["context"] + new / 2)
                    yield _point(work, row, size * every, middle, every)


def _tuned(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if not row["label"].endswith(UNTUNED)]


def _point(
    work: str,
    row: Mapping[str, Any],
    tokens: float,
    positions: float,
    every: float = 1.0,
) -> _Point:
    """Return a row's point: ``tokens`` go through the weights at once, ``every`` for each rated."""
    reads = row["reads"]
    if reads is None:
        return _Point(work, row["label"], row["ours"], 0.0, 0.0, row["rates"])
    operations = reads["operations"]
    intensity = tokens * operations / (reads["weights"] + reads["position"] * positions)
    speed = statistics.median(row["rates"]) * operations * every
    return _Point(work, row["label"], row["ours"], intensity, speed, row["rates"])


def _roofs(document: Document) -> Iterator[Mapping[str, float]]:
    if "prefill" in document:
        for roofs in document["prefill"]["roofs"].values():
            yield from roofs
        return
    for kind in ("decode", "batch"):
        for part in document.get(kind, {}).get("parts", ()):
            yield from part["roofs"]


def _ticks() -> Any:
    import matplotlib.ticker

    return matplotlib.ticker.LogLocator(base=10, subs=(1.0, 2.0, 5.0))
