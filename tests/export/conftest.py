"""Shows what the tests of families measured, as a table: family, source, precision.

And has the reader that the real file is compared with read it once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import gguf
import pytest

COLUMNS = (
    "safetensors fp32",
    "gguf fp32",
    "fp16",
    "bf16",
    "int8",
    "int4",
    "gguf blocks",
    "gguf K-blocks",
)
"""The first two are the largest difference of a logit from transformers', completions being equal;
the others the mean divergence from it in nats, of ``gguf`` from what the file's blocks stand for.
"""

Cells = dict[str, dict[str, str]]


@functools.cache
def _read_by_the_library(file: str) -> gguf.GGUFReader:
    return _READER(file)


_READER = gguf.GGUFReader


@pytest.fixture
def library_reads_once(sample_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share what the gguf package makes of the real file, which takes it seconds.

    For tests that use its reader, or ``transformers``, on that file and no other.
    """
    monkeypatch.setattr(gguf, "GGUFReader", lambda file: _read_by_the_library(str(file)))


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, each cell a test that passed."""
    families: Cells = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "family" and isinstance(value, tuple):
                family, column, figure = value
                families.setdefault(family, {})[column] = figure
    if len(families) > 1:
        terminalreporter.section("families")
        for line in table(families):
            terminalreporter.write_line(line)


def table(families: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return it in Markdown."""
    lines = [f"| family | {' | '.join(COLUMNS)} |", f"| --- {'| ---: ' * len(COLUMNS)}|"]
    for family, cells in families.items():
        figures = " | ".join(cells.get(column, "") for column in COLUMNS)
        lines.append(f"| {family} | {figures} |")
    return lines
