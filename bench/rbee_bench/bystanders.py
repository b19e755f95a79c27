"""What other programs use of the processor while something is measured."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

BUSY = 0.05
"""Share of the processor from which on other programs are said to have been in the way."""


class Bystanders:
    """Watches, from when it is made, the processor time that goes to anybody else.

    A steady disturbance does not show in the spread of what it disturbs, and it does not slow all
    engines alike: threads that wait for each other by spinning suffer most.

    Args:
        processes: Ids of processes that belong to the measurement, with what they have started,
            besides this one and the children it has waited for.
    """

    def __init__(self, processes: Iterable[int] = ()) -> None:
        self._others = [psutil.Process(process) for process in processes]
        self._began = time.monotonic()
        self._before = self._seconds()

    def share(self) -> float:
        """Return the part of the processor, 0.0 to 1.0, that others have had so far."""
        offered = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        # The two clocks tick in hundredths of a second, so a short watch can come out below zero.
        return min(1.0, max(0.0, (self._seconds() - self._before) / offered))

    def _seconds(self) -> float:
        machine = psutil.cpu_times()
        # Time a guest machine has had is part of "user" too; time stolen by a host is not ours.
        counted = {"user", "nice", "system", "irq", "softirq", "steal"}
        busy = sum(getattr(machine, name, 0.0) for name in counted)
        ours = 0.0
        started = [one for each in self._others for one in each.children(recursive=True)]
        for process in (psutil.Process(), *self._others, *started):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                ours += times.user + times.system + times.children_user + times.children_system
        return float(busy - ours)
