"""The process of one check: findings go to stdout as JSON, one a line, as they come.

Libraries print; the findings keep the real stdout for themselves.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_check.outcome import Status
from gpu_check.plan import CHECKS, Check


class Skipped(Exception):
    """The check has nothing to find out here; the message says why, in one line."""


class Missing(Exception):
    """No check can run here; the message names what is missing, in one line."""


class Report:
    """Where a check says what it finds.

    Attributes:
        directory: For its files; removed once it has ended.

    Args:
        descriptor: Where to write.
        directory: See above.
    """

    def __init__(self, descriptor: int, directory: Path) -> None:
        self.directory = directory
        self._stream = os.fdopen(descriptor, "w", encoding="utf-8")
        self._broken: list[str] = []

    def row(self, *, holds: bool | None = None, **fields: Any) -> None:
        """Say one finding.

        Args:
            holds: Whether it is as it must be, if it has to be somehow.
            fields: What was found, by the head of its column.
        """
        if holds is not None:
            fields["holds"] = holds
        if holds is False:
            self._broken.append(str(next(iter(fields.values()))))
        self._say(row=fields)

    def end(self, status: Status, why: str = "") -> None:
        """Say how the check ended."""
        self._say(end=status, why=" ".join(why.split()))

    def passed(self) -> None:
        """Say that it ran to its end, which it did not pass if a finding does not hold."""
        if self._broken:
            self.end(Status.FAILED, f"does not hold for {', '.join(self._broken)}")
        else:
            self.end(Status.PASSED)

    def _say(self, **line: Any) -> None:
        print(json.dumps(line), file=self._stream, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the check of the given name."""
    check = next(check for check in CHECKS if check.name == arguments[0])
    _share_cores(check)
    findings = os.dup(1)
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as directory:
        report = Report(findings, Path(directory))
        try:
            module, _, function = check.entry.partition(":")
            getattr(importlib.import_module(module), function)(report, *check.arguments)
        except Skipped as reason:
            report.end(Status.SKIPPED, str(reason))
        except Missing as reason:
            report.end(Status.MISSING, str(reason))
        except Exception as error:  # whatever it is, the other checks go on
            report.end(Status.FAILED, f"{type(error).__name__}: {error}")
            raise
        else:
            report.passed()
    return 0


def _share_cores(check: Check) -> None:
    """Take a share of the cores, where others run beside: idle threads that wait are not idle."""
    group = [one.name for one in CHECKS if one.group and one.group == check.group]
    if group:
        cores = sorted(os.sched_getaffinity(0))
        share = max(1, len(cores) // len(group))
        first = group.index(check.name) * share % len(cores)
        os.sched_setaffinity(0, cores[first : first + share])


if __name__ == "__main__":
    # What the checks raise is the imported module's, not this one's, which has the same names.
    sys.exit(importlib.import_module("gpu_check.child").main(sys.argv[1:]))
