"""What pictures have in common: a figure that says where it was measured, bars, and a style."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

# Okabe and Ito's colours, which people who see fewer colours tell apart.
OURS, OTHERS, INK, GRID = "#0072B2", "#BBBBBB", "#333333", "#dddddd"

_STYLES = MappingProxyType(
    {
        "int4": ("#0072B2", "o"),
        "gguf": ("#56B4E9", "s"),
        "int8": ("#009E73", "D"),
        "llama.cpp": ("#D55E00", "^"),
        "ONNX Runtime GenAI int4": ("#CC79A7", "v"),
        "OpenVINO GenAI": ("#E69F00", "P"),
        "vLLM": ("#999999", "*"),
        "eager torch fp32": ("#000000", "X"),
        "llama.cpp, llama-server": ("#D55E00", "^"),
        "llama.cpp, its Python server": ("#E69F00", "v"),
        "vLLM, vllm serve": ("#999999", "*"),
    }
)
_OTHER_STYLES = (("#F0E442", "h"), ("#666666", "d"))


class PlotFault(Exception):
    """Nothing can be drawn; one line says why."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with the quartiles of its rounds.

    Attributes:
        label: What it stands for.
        ours: Whether that is the compiled runtime.
        values: One a round.
    """

    label: str
    ours: bool
    values: Sequence[float]


def styles(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return a colour and a marker for each label, an engine's the same in every picture."""
    rest = iter(_OTHER_STYLES * len(labels))
    return {label: _STYLES[label] if label in _STYLES else next(rest) for label in labels}


def figure(
    title: str, document: Mapping[str, Any], width: float, height: float, note: str = ""
) -> Any:
    """Return an empty figure, ``width`` by ``height`` inches, that says where it was measured.

    Raises:
        PlotFault: Matplotlib is not installed.
    """
    machine = document["machine"]
    try:
        module = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise PlotFault("matplotlib is not installed: pip install matplotlib") from None
    empty: Any = module.Figure(figsize=(width, height), layout="constrained")
    empty.suptitle(title, fontsize=12, fontweight="bold")
    where = f"{machine['cpu']}, {machine['cores']} cores{note}"
    empty.supxlabel(where, fontsize=8, color=INK)
    return empty


def bare(drawn: Any) -> Any:
    """Return the figure without the frames' upper and right sides."""
    for axes in drawn.axes:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return drawn


def bars(
    title: str, document: Mapping[str, Any], panels: Mapping[str, Sequence[Bar]], unit: str
) -> Any:
    """Draw panels of bars side by side, what has one label on one height in all of them.

    Args:
        title: Of the whole.
        document: A result, for its machine.
        panels: By title, bars.
        unit: Of the axes; a panel whose title ends in another one in brackets has that.
    """
    labels = list(dict.fromkeys(bar.label for panel in panels.values() for bar in panel))
    ours = {bar.label for panel in panels.values() for bar in panel if bar.ours}
    note = "; median and quartiles of the rounds; bold and blue: the compiled worker"
    size = 2.4 + 2.6 * len(panels) + 0.08 * max(map(len, labels)), 1.6 + 0.36 * len(labels)
    drawn = figure(title, document, *size, note=note)
    grid = drawn.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (name, panel) in zip(grid, panels.items(), strict=True):
        places = [labels.index(bar.label) for bar in panel]
        medians = [statistics.median(bar.values) for bar in panel]
        quartiles = np.array([np.quantile(bar.values, (0.25, 0.75)) for bar in panel]).T
        away = np.abs(quartiles - np.array(medians))
        axes.barh(
            places,
            medians,
            xerr=away,
            color=[OURS if bar.ours else OTHERS for bar in panel],
            error_kw={"ecolor": INK, "capsize": 3},
        )
        for place, median, above in zip(places, medians, away[1], strict=True):
            text = f"{median:.0f}" if median >= 10 else f"{median:.1f}"
            axes.annotate(
                text,
                (median + above, place),
                xytext=(6, 0),
                textcoords="offset points",
                verticalalignment="center",
            )
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlim(0, 1.22 * max(m + a for m, a in zip(medians, away[1], strict=True)))
        heading, _, own = name.partition(" [")
        axes.set_title(heading, fontsize=10)
        axes.set_xlabel(own.rstrip("]") or unit)
        axes.grid(axis="x", color=GRID)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    # The other panels share the labels of the first.
    for tick in grid[0].get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text() in ours else "normal")
    grid[0].invert_yaxis()
    return bare(drawn)
