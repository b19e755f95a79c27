"""How far each stage of a program is: bars on a terminal, and elsewhere a line now and then."""

from __future__ import annotations

import threading
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

SILENCE = 10.0
"""Seconds without a line where there is no terminal: what is short leaves its outcome alone in a
log.
"""


class Stages:
    """Shows how far each stage of a program is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:>12}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._reached = ""
        self._over = threading.Event()
        # A stage may be long and say nothing itself.
        self._teller = threading.Thread(target=self._tell, name="progress", daemon=True)

    def show(self, stage: str, done: int, total: int) -> None:
        """Draw a stage at ``done`` of ``total``; 0 of 0 says only that it has begun."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=None)
        self._bars.update(self._tasks[stage], completed=done, total=total or None)
        self._reached = f"{stage}, {done / total:.0%}" if total else stage

    def _tell(self) -> None:
        while not self._over.wait(SILENCE):
            if self._reached:
                self._console.print(f"rbee-export: {self._reached}")

    def __enter__(self) -> Self:
        self._bars.start()
        if not self._console.is_terminal:
            self._teller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        self._over.set()
        if self._teller.is_alive():
            self._teller.join()
