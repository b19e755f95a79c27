"""What the checks found, as JSON and as Markdown, written anew after each of them."""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_check.outcome import Outcome, Row, Status
from gpu_check.plan import PROVIDER
from gpu_check.rates import rates
from gpu_check.targets import Target, targets


class Document:
    """The results of one run.

    Attributes:
        outcomes: Of the checks that have ended, in the order in which they did.

    Args:
        directory: Where to write.
        day: When.
        names: Of all checks, in their order.
    """

    def __init__(self, directory: Path, day: datetime.date, names: Sequence[str]) -> None:
        self.outcomes: list[Outcome] = []
        self._directory = directory
        self._day = day
        self._names = names
        self._written: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, Path]:
        """The JSON and the Markdown."""
        stem = f"{self._day.isoformat()}-gpu-{self._gpu()}"
        return self._directory / f"{stem}.json", self._directory / f"{stem}.md"

    @property
    def holds(self) -> bool:
        """Whether no check failed, and no figure is below what it has to be."""
        failed = any(one.status is Status.FAILED for one in self.outcomes)
        return not failed and all(target.met is not False for target in self._targets())

    def add(self, outcome: Outcome) -> None:
        """Take a check's outcome and write everything there is so far."""
        self.outcomes.append(outcome)
        if outcome.status is Status.MISSING:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        for file in set(self._written) - set(self.files):
            file.unlink(missing_ok=True)  # from before the GPU's name was known
        self._written = data, table = self.files
        _replace(data, json.dumps(self.to_json(), indent=2) + "\n")
        _replace(table, self.to_markdown())

    def to_json(self) -> Mapping[str, Any]:
        """Return everything that was found."""
        return {
            "command": ["make", "gpu-check"],
            "commit": _commit(),
            "date": self._day.isoformat(),
            "gpu-check": {
                "checks": [asdict(one) for one in self._ordered()],
                "rates": rates(self.outcomes),
                "targets": [asdict(one) for one in self._targets()],
            },
        }

    def to_markdown(self) -> str:
        """Return the same as tables."""
        blocks = [f"# gpu-check, {self._day.isoformat()}", _commit() or "no commit", "## Checks"]
        ended = {one.name: one for one in self.outcomes}
        lines = []
        for name in self._names:
            one = ended.get(name)
            row = {"check": name, "": one.status if one else "not yet run"}
            lines.append({**row, "seconds": one.seconds if one else None, "why": one and one.why})
        blocks += [_table(lines), "## What it has to reach"]
        blocks.append(_table([one.row() for one in self._targets()]))
        if found := rates(self.outcomes):
            blocks += ["## Speed", _table(found)]
        for one in self._ordered():
            if rows := [row for row in one.rows if "rate" not in row]:
                blocks += [f"## {one.name[0].upper()}{one.name[1:]}", *_tables(rows)]
        return "\n\n".join(blocks) + "\n"

    def _ordered(self) -> list[Outcome]:
        return sorted(self.outcomes, key=lambda one: self._names.index(one.name))

    def _targets(self) -> tuple[Target, ...]:
        return targets(self.outcomes)

    def _gpu(self) -> str:
        from gpu_check.program import slug

        rows = [row for one in self.outcomes if one.name == PROVIDER for row in one.rows]
        name = next((row["is"] for row in rows if row.get("what") == "GPU"), "unnamed")
        return slug(str(name))


def _tables(rows: Sequence[Row]) -> list[str]:
    """Return a table for each run of rows with the same columns."""
    tables: list[list[Row]] = []
    for row in rows:
        if not tables or tables[-1][0].keys() != row.keys():
            tables.append([])
        tables[-1].append(row)
    return [_table(part) for part in tables]


def _table(rows: Sequence[Row]) -> str:
    heads = list(dict.fromkeys(head for row in rows for head in row))
    numbers = [any(isinstance(row.get(h), int | float) for row in rows) for h in heads]
    rule = ["---:" if number else "---" for number in numbers]
    cells = [[_cell(row.get(head)) for head in heads] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, rule, *cells])


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "**no**"
        case float() if value and abs(value) < 0.1:
            return f"{value:.1e}"
        case float() if abs(value) >= 1e9:
            return f"{value:.2e}"
        case float():
            return f"{value:.2f}" if abs(value) < 10 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
        case _:
            return str(value).replace("|", "\\|").replace("\n", " ")


def _replace(file: Path, text: str) -> None:
    """Write a file in such a way that it is never half there."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _commit() -> str | None:
    """Return the commit that is checked, ``+`` after it if files differ; none in no checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
