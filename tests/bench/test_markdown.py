from __future__ import annotations

import pytest
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rbee_bench.markdown import to_markdown


def test_tables_keep_their_cells_and_alignment() -> None:
    table = Table(title="Speed, a|b")
    table.add_column("", justify="left")
    table.add_column("tokens/s", justify="right")
    table.add_row("gguf*", "12.5")
    assert to_markdown(Group(table, Text("one\ntwo"))) == (
        "**Speed, a\\|b**\n\n|  | tokens/s |\n| --- | ---: |\n| gguf\\* | 12.5 |\n\none  \ntwo\n"
    )


def test_what_it_cannot_say_is_refused() -> None:
    with pytest.raises(TypeError, match="no Markdown for Panel"):
        to_markdown(Group(Panel("text")))
