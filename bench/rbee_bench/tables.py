"""The measured tables of documents, written from results.

A table stands between ``<!-- rbee-bench NAME -->`` and ``<!-- end -->``, each a line of its own.
What is between them is replaced; the rest is the author's. A table whose results are not there is
left empty.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rbee_bench.measured_tables import TABLES, Results

_PART = re.compile(r"^<!-- rbee-bench (\S+) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)


class TableFault(Exception):
    """A document or a result cannot be used; one line says why."""


def rewrite(file: Path, directory: Path) -> bool:
    """Write the measured tables of a document anew.

    Args:
        file: Markdown with places for tables.
        directory: Holds results that ``--json`` kept; of several of one subcommand, the one whose
            name comes last counts.

    Returns:
        Whether that changed it.

    Raises:
        TableFault: There is a place for a table of no such name, no place at all, or a file that is
            no result.
        OSError: A file cannot be read or written.
    """
    before = file.read_text(encoding="utf-8")
    after = _rewritten(file, before, _read(directory))
    if after == before:
        return False
    file.write_text(after, encoding="utf-8")
    return True


def _rewritten(file: Path, text: str, results: Results) -> str:
    def filled(found: re.Match[str]) -> str:
        name = found[1]
        if name not in TABLES:
            raise TableFault(f"{file}: no table {name}; there are {', '.join(TABLES)}")
        needs, write = TABLES[name]
        body = write(results) if all(kind in results for kind in needs) else ""
        return f"<!-- rbee-bench {name} -->\n{body}<!-- end -->"

    after, count = _PART.subn(filled, text)
    if count == 0:
        raise TableFault(
            f"{file}: no place for a table: lines <!-- rbee-bench NAME --> and <!-- end -->"
        )
    return after


def _read(directory: Path) -> dict[str, dict[str, Any]]:
    results = {}
    for file in sorted(directory.glob("*.json")):
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            kind = document["command"][1]
            if "proof" in document:
                continue  # of the gate, of which no table tells
            document[kind]
        except (ValueError, LookupError, TypeError):
            raise TableFault(f"{file}: not a result that rbee-bench wrote with --json") from None
        results[kind] = document
    return results
