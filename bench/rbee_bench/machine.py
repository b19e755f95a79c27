"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil


@dataclass(frozen=True, slots=True)
class Machine:
    """A computer.

    Attributes:
        cpu: The processor's name.
        cores: Cores this process may use, two threads of one core counted once. Every engine
            computes with this many threads.
        memory_bytes: Main memory.
        system: Operating system and its version.
        python: Python's version.
    """

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str

    @classmethod
    def this(cls) -> Self:
        """Describe the machine this runs on."""
        allowed = len(os.sched_getaffinity(0))
        return cls(
            cpu=_cpu_name(),
            cores=max(1, min(allowed, psutil.cpu_count(logical=False) or allowed)),
            memory_bytes=psutil.virtual_memory().total,
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
        )

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB, "
            f"{self.system}, Python {self.python}"
        )


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
