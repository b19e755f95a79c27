"""What a process may still take by the limits that are set for it, less than the host may have."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil


@dataclass(frozen=True, slots=True)
class _Files:
    """What a version of control groups calls its files, and a line of the last of them."""

    limit: str
    used: str
    reclaimable: str


_FIRST = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_SECOND = _Files("memory.max", "memory.current", "inactive_file")


def address_space_left() -> int | None:
    """Return the bytes this process may still map (``ulimit -v``); ``None`` for no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - int(psutil.Process().memory_info().vms))


def control_groups_left(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process's control groups may still take; ``None`` for no limit.

    Containers are limited so, and systemd's units. Of the page cache what has not been read lately
    counts as free, as it does on the host.

    Args:
        root: Where ``/proc`` and the control groups are mounted.
    """
    limits = (_left(group, files) for group, files in _groups(root))
    return min((left for left in limits if left is not None), default=None)


def _groups(root: Path) -> Iterator[tuple[Path, _Files]]:
    """Yield the directories of the groups the process is in, and of those around them."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    # Lines like `4:memory:/docker/ab12`; the second version's names no controllers.
    paths = {
        controller: PurePosixPath(path)
        for _, controllers, path in (line.split(":", 2) for line in groups)
        for controller in controllers.split(",")
    }
    for mount in mounts:
        # Lines like `35 31 0:32 /docker/ab12 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory`.
        place, _, kind = mount.partition(" - ")
        *_, shown, mounted = place.split(" ")[:5]
        system, _, options = kind.split(" ", 2)
        if system == "cgroup2":
            path, files = paths.get(""), _SECOND
        elif system == "cgroup" and "memory" in options.split(","):
            path, files = paths.get("memory"), _FIRST
        else:
            continue
        if path is None:
            continue
        # A container may be shown its own part of the tree only, or told of paths outside of it.
        within = path.relative_to(shown) if path.is_relative_to(shown) else PurePosixPath()
        if ".." in within.parts:
            within = PurePosixPath()
        top = root / mounted.lstrip("/")
        for group in (within, *within.parents):
            yield top / group, files


def _left(group: Path, files: _Files) -> int | None:
    try:
        # The second version writes `max` for no limit, and the topmost group has no such file.
        limit = int((group / files.limit).read_text())
        used = int((group / files.used).read_text())
        counts = (group / "memory.stat").read_text().split()
    except (OSError, ValueError):
        return None
    reclaimable = int(dict(zip(counts[::2], counts[1::2], strict=False)).get(files.reclaimable, 0))
    return max(0, limit - max(0, used - reclaimable))
