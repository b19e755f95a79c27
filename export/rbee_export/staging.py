"""A directory that appears whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from rbee_export.errors import BeingWritten, ExportError
from rbee_runtime.artifact import MANIFEST_NAME, FileEntry, Role


@contextlib.contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside ``target`` that takes its place when the block ends well.

    If the block raises, or the process dies, ``target`` is as it was. What a killed run left
    behind is removed by the next one, which also puts the old artifact back should the process have
    died in the instant between taking that away and moving the new one into its place.

    Where ``target`` is a link, what it leads to is written, and the link stays.

    Raises:
        ExportError: ``target`` exists and is no artifact.
        BeingWritten: Another export is writing it.
    """
    if target.exists() and not (target / MANIFEST_NAME).is_file() and not _is_empty(target):
        raise ExportError(f"{target}: exists and is not an artifact; choose another --out")
    target = _followed(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging, retired = _staging(target), target.with_name(f".{target.name}.retired")
    with _locked(_lock(target), target):
        if retired.exists() and not target.exists():
            retired.rename(target)
        _remove(retired)
        _remove(staging)
        staging.mkdir()
        try:
            yield staging
            _sync(staging)
            _swap(staging, target, retired)
        except OSError as error:
            # Of a file that is open already, the system does not say which it was.
            error.filename = error.filename or str(target)
            raise
        finally:
            _remove(staging)


def wait_until_written(target: Path) -> None:
    """Wait until no other export is writing ``target``, whatever came of it."""
    with contextlib.suppress(FileNotFoundError), _lock(target).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)


def remove_directory(target: Path) -> None:
    """Remove an artifact; no half of it is ever there under its name.

    Raises:
        BeingWritten: An export is writing it.
        OSError: It cannot be removed.
    """
    with _locked(_lock(target), target):
        staging = _staging(target)
        _remove(staging)
        target.rename(staging)
        _remove(staging)


def remove_left_behind(directory: Path, name: re.Pattern[str]) -> None:
    """Remove what killed exports have left in a directory of artifacts.

    Args:
        directory: Where they were to be.
        name: What artifacts are called there. Whatever else looks alike is somebody's own.

    Raises:
        OSError: It cannot be removed.
    """
    for staging in directory.glob(".*.partial"):
        target = staging.with_name(staging.stem.removeprefix("."))
        if name.fullmatch(target.name):
            with contextlib.suppress(BeingWritten), _locked(_lock(target), target):
                _remove(staging)


def file_entry(role: Role, file: Path) -> FileEntry:
    """Return a file of an artifact as its manifest lists it."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(role=role, path=file.name, size=file.stat().st_size, sha256=digest)


@contextlib.contextmanager
def _locked(file: Path, target: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        while True:
            lock = stack.enter_context(file.open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BeingWritten(
                    f"{target}: another export is writing it; wait for that one"
                ) from None
            # An export that ended meanwhile may have removed the file, and the lock with it.
            if os.fstat(lock.fileno()).st_nlink:
                break
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _staging(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _lock(target: Path) -> Path:
    target = _followed(target)
    return target.with_name(f".{target.name}.lock")


def _followed(target: Path) -> Path:
    """Return where a link leads to; renaming is of the directory there, and of none in between."""
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _sync(directory: Path) -> None:
    """Force content to the disk before the rename makes it visible."""
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _swap(staging: Path, target: Path, retired: Path) -> None:
    if target.exists():
        target.rename(retired)
    staging.rename(target)
    _remove(retired)
