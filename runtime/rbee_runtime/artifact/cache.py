"""Where artifacts lie that were exported on the way to a worker, and whether one is in use."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def artifact_cache(environment: Mapping[str, str]) -> Path:
    """Return the directory that exports on the spot go to."""
    named = environment.get("RBEE_ARTIFACT_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "rbee" / "artifacts"


@contextlib.contextmanager
def in_use(artifact: Path) -> Iterator[None]:
    """Keep an artifact from being cleared away while the block runs, or until the process dies.

    Blocks while it is being cleared away. What cannot be opened, or lies on a file system without
    locks, nothing keeps: whoever loads it says what is wrong with it.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            fcntl.flock(stack.enter_context(_opened(artifact)), fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def unless_in_use(artifact: Path) -> Iterator[bool]:
    """Yield whether nobody uses an artifact; if so, nobody begins to while the block runs.

    Raises:
        OSError: It cannot be opened, or its file system has no locks.
    """
    with _opened(artifact) as directory:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
