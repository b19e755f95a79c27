"""Pages that mirror a model's files are given back, and nothing that was written is lost."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from rbee_runtime.kernels import forget_pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells")
SIZE = 64 * mmap.PAGESIZE


def resident(file: Path) -> list[int]:
    """Return the kilobytes of each mapping of a file that are in memory."""
    found: list[int] = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            inside = str(file) in line
        elif inside and name == "Rss:":
            found.append(int(rest[0]))
    return found


def test_what_mirrors_files_is_given_back_and_what_was_written_is_kept(tmp_path: Path) -> None:
    inside, outside = tmp_path / "model" / "weights", tmp_path / "other"
    inside.parent.mkdir()
    for file in (inside, outside):
        file.write_bytes(b"w" * SIZE)
    with inside.open("rb") as weights, outside.open("rb") as other:
        read, apart = (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for file in (weights, other)
        )
        written = mmap.mmap(weights.fileno(), 0, access=mmap.ACCESS_COPY)
    with read, written, apart:
        written[SIZE // 2] = 0
        for pages in (read, written, apart):
            assert pages[:].count(b"w") >= SIZE - 1
        kilobytes = SIZE >> 10
        assert resident(inside) == [kilobytes] * 2
        forget_pages(inside.parent)
        assert sorted(resident(inside)) == [0, kilobytes]
        assert resident(outside) == [kilobytes]
        assert written[SIZE // 2] == 0
        assert read[:] == b"w" * SIZE
