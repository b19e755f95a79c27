"""What may be read of a model directory: files of its own, of a size that models have."""

from __future__ import annotations

import stat
from pathlib import Path

from rbee_export.errors import CheckpointError
from rbee_runtime.units import human_size

LARGEST_SETTINGS = 16 << 20
"""Bytes of settings or a header. As Python values they can take twenty times as much; the largest
real ones have under two million.
"""

LARGEST_TOKENIZER = 1 << 28
"""Bytes; the largest real ones have forty million."""

_POINTER = b"version https://git-lfs.github.com/spec/"


def require_own(file: Path, largest: int | None = None) -> None:
    """Refuse what is no file of its directory: a device, a pipe, a link to somewhere else.

    The links of a hub's cache, to its blobs, are as good as files.

    Args:
        file: The file, or a link.
        largest: Bytes it may have.

    Raises:
        CheckpointError: It is one of these, or larger, or no more than a pointer of Git LFS.
        OSError: It is not there.
    """
    if file.is_symlink():
        target, home = file.resolve(), file.parent.resolve()
        blobs = target.parent
        in_cache = blobs.name == "blobs" and blobs.parent.name.startswith("models--")
        if not in_cache and not target.is_relative_to(home):
            raise CheckpointError(f"{file}: links to a file outside its directory; copy that there")
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{file}: not a regular file")
    require_fetched(file)
    if largest is not None and status.st_size > largest:
        raise CheckpointError(
            f"{file}: has {human_size(status.st_size)}, far more than any model's"
        )


def require_fetched(file: Path) -> None:
    """Refuse what Git leaves in the place of a large file where its LFS is not installed.

    Raises:
        CheckpointError: It is that.
        OSError: The file cannot be read.
    """
    with file.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise CheckpointError(
                f"{file}: a pointer of Git LFS in the file's place; 'git lfs pull' fetches the file"
            )
