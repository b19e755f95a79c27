"""Pieces of which the tables of documents are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def own(row: Mapping[str, Any], *cells: str) -> tuple[str, ...]:
    """Return a table's row; one of the compiled worker's in bold."""
    if not row["ours"]:
        return row["label"], *cells
    name, comma, more = row["label"].partition(", ")
    return f"**`{name}`**{comma}{more}", *(f"**{cell}**" if cell else "" for cell in cells)


def table(head: Sequence[str], align: str, rows: Sequence[Sequence[str]]) -> str:
    """Return a table; ``align`` says of every column but the first which side its cells are on."""
    rule = ["---", *("---:" if side == "r" else "---" for side in align)]
    lines = [head, rule, *rows]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def where(*documents: Mapping[str, Any]) -> str:
    """Return on what results were measured, and of which commits; the machine is the first's."""
    machine = documents[0]["machine"]
    cores = f"{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}"
    commits = dict.fromkeys(document["commit"] for document in documents if "commit" in document)
    return f"{cores}{', at ' if commits else ''}{' and '.join(commits)}.\n"


def percent(share: float) -> str:
    """Return a part of a whole in per cent."""
    return f"{share:.0%}".replace("%", " %")
