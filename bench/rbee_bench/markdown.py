"""A report as Markdown, from the same tables that a terminal shows."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def to_markdown(report: RenderableType) -> str:
    """Return a report of :mod:`rbee_bench.report` as GitHub's Markdown, with a line at its end.

    Raises:
        TypeError: It holds something else than tables and texts.
    """
    return "\n\n".join(_blocks(report)) + "\n"


def _blocks(part: RenderableType) -> list[str]:
    match part:
        case Group():
            return [block for inner in part.renderables for block in _blocks(inner)]
        case Table():
            title = [f"**{_escaped(str(part.title))}**"] if part.title else []
            return [*title, _table(part)]
        case Text():
            # Two spaces at a line's end keep it one.
            return [_escaped(part.plain).replace("\n", "  \n")]
        case _:
            raise TypeError(f"no Markdown for {type(part).__name__}")


def _table(table: Table) -> str:
    columns = table.columns
    rule = ["---:" if column.justify == "right" else "---" for column in columns]
    rows = zip(*([str(cell) for cell in column.cells] for column in columns), strict=True)
    head = [str(column.header) for column in columns]
    lines = [map(_escaped, head), rule, *(map(_escaped, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    for mark in "\\|*_<":
        text = text.replace(mark, f"\\{mark}")
    return text
