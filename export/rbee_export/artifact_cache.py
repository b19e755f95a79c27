"""``rbee-export cache``: what was exported on the way to a worker, and how to be rid of it."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rbee_export.errors import BeingWritten
from rbee_export.report import printable
from rbee_export.staging import remove_directory, remove_left_behind
from rbee_runtime.artifact import MANIFEST_NAME, open_artifact
from rbee_runtime.artifact.cache import artifact_cache, unless_in_use
from rbee_runtime.errors import ArtifactError
from rbee_runtime.units import human_size

Limit = timedelta | int
"""What a cache is pruned to: what was used so lately, or so many bytes."""

_NAME = re.compile(r"[0-9a-f]{32}")
"""What exports into a cache are called. Whatever else lies there is somebody's own, as are links:
to what was moved to another disk, for one.
"""


@dataclass(frozen=True, slots=True)
class CachedArtifact:
    """An artifact of a cache.

    Attributes:
        path: Its directory.
        nbytes: What its files take.
        last_used: When an export wrote it, or found it for a worker's start, in seconds since 1970.
    """

    path: Path
    nbytes: int
    last_used: float

    def in_use(self) -> bool:
        """Return whether a worker has it."""
        with unless_in_use(self.path) as free:
            return not free

    def remove(self) -> bool:
        """Remove it, unless a worker has it or an export is writing it; return whether it is gone.

        Raises:
            OSError: It cannot be removed.
        """
        with unless_in_use(self.path) as free:
            if not free:
                return False
            try:
                remove_directory(self.path)
            except BeingWritten:
                return False
            return True


def cached_artifacts(cache: Path) -> list[CachedArtifact]:
    """Return what a cache holds, what was used last first."""
    found = [
        CachedArtifact(
            path, sum(file.stat().st_size for file in path.iterdir()), path.stat().st_mtime
        )
        for path in (cache.iterdir() if cache.is_dir() else ())
        if _NAME.fullmatch(path.name) and not path.is_symlink() and (path / MANIFEST_NAME).is_file()
    ]
    return sorted(found, key=lambda one: one.last_used, reverse=True)


def prune(
    found: Sequence[CachedArtifact], limit: Limit
) -> tuple[list[CachedArtifact], list[CachedArtifact]]:
    """Remove what is beyond a limit and not in use, the longest unused first.

    Args:
        found: What there is, what was used last first.
        limit: What is to stay.

    Returns:
        What has been removed, and what is beyond the limit and in use.

    Raises:
        OSError: One cannot be removed.
    """
    left = sum(one.nbytes for one in found)
    removed, kept = [], []
    for one in reversed(found):
        if isinstance(limit, timedelta):
            beyond = time.time() - one.last_used > limit.total_seconds()
        else:
            beyond = left > limit
        if beyond and one.remove():
            removed.append(one)
            left -= one.nbytes
        elif beyond:
            kept.append(one)
    return removed, kept


def manage(arguments: argparse.Namespace, console: Console) -> RenderableType | None:
    """Return the list of a cache; or prune it, and say so.

    Args:
        arguments: Of the command line: ``directory`` and ``limit``.
        console: For what was done.

    Raises:
        OSError: The cache cannot be read, or an artifact of it cannot be removed.
    """
    cache = arguments.directory or artifact_cache(os.environ)
    found = cached_artifacts(cache)
    if arguments.limit is None:
        summary = Text(f"{_counted(found)} in {cache}")
        return Group(_table(found), summary) if found else summary
    removed, kept = prune(found, arguments.limit)
    if cache.is_dir():
        remove_left_behind(cache, _NAME)
    in_use = f"; {_counted(kept)}, in use and left" if kept else ""
    console.print(f"{_counted(removed)} removed from {cache}{in_use}")
    return None


def _table(found: Sequence[CachedArtifact]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("size", justify="right")
    for heading in ("last used", "source", "precision", "artifact"):
        table.add_column(heading)
    for one in found:
        used = datetime.fromtimestamp(one.last_used).isoformat(" ", "minutes")
        table.add_row(
            human_size(one.nbytes),
            "in use" if one.in_use() else used,
            *map(Text, _source(one.path)),
            one.path.name,
        )
    return table


def _source(artifact: Path) -> tuple[str, str]:
    """Return what an artifact was made of, and its precision."""
    try:
        manifest = open_artifact(artifact).manifest
    except ArtifactError:
        return "unreadable", ""
    return printable(manifest.source.name), manifest.precision


def _counted(found: Sequence[CachedArtifact]) -> str:
    count = f"{len(found)} artifact{'' if len(found) == 1 else 's'}"
    return f"{count}, {human_size(sum(one.nbytes for one in found))}" if found else count
