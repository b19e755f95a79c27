"""The directory, checked against its manifest."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError

from rbee_runtime.artifact.manifest import (
    FORMAT_VERSION,
    OLDEST_FORMAT_VERSION,
    Engine,
    Manifest,
    Role,
)
from rbee_runtime.errors import ArtifactError

MANIFEST_NAME = "artifact.json"

ByteProgress = Callable[[int, int], None]
"""Called with bytes done and bytes in total."""

_WINDOW = 64 << 20
"""Bytes of a file that are mapped and hashed at a time, without the interpreter's lock."""

_LARGEST_MANIFEST = 16 << 20
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Artifact:
    """An opened artifact: the directory and its manifest.

    Attributes:
        path: The directory.
        manifest: Its parsed ``artifact.json``.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the manifest and check that every file it names is there, at its size.

        Raises:
            ArtifactError: No manifest, a newer or invalid one, or a file missing or cut short.
        """
        manifest = _read_manifest(path)
        for entry in manifest.files:
            file = path / entry.path
            if not file.is_file():
                raise ArtifactError(f"{path}: {entry.path} is missing; export the model again")
            size = file.stat().st_size
            if size != entry.size:
                raise ArtifactError(
                    f"{path}: {entry.path} has {size} bytes, its manifest says {entry.size}; "
                    "export the model again"
                )
        roles = [entry.role for entry in manifest.files]
        once: list[Role] = ["graph", "tokenizer"]
        if manifest.target != "cpu":
            once += ["greedy", "sampler"]
        for role in once:
            if roles.count(role) != 1:
                raise ArtifactError(
                    f"{path}: the manifest must name exactly one {role} file; "
                    "export the model again"
                )
        if roles.count("half_cache_graph") > 1:
            raise ArtifactError(
                f"{path}: the manifest names more than one half_cache_graph file; "
                "export the model again"
            )
        if "weights" not in roles:
            raise ArtifactError(f"{path}: the manifest names no weights file")
        return cls(path, manifest)

    def file(self, role: Literal["graph", "tokenizer", "greedy", "sampler"]) -> Path:
        """Return the path of the file with this role."""
        return next(self.path / e.path for e in self.manifest.files if e.role == role)

    @property
    def half_cache_graph(self) -> Path | None:
        """The graph whose cache is of 16 bits, for the native kernels alone, where there is one."""
        paths = (self.path / e.path for e in self.manifest.files if e.role == "half_cache_graph")
        return next(paths, None)

    def engine_file(self, engine: Engine) -> Path:
        """Return the path of an engine's file.

        Raises:
            ArtifactError: It is not among the files that were checked.
        """
        for entry in self.manifest.files:
            if entry.role == "engine" and entry.path == engine.path:
                return self.path / entry.path
        raise ArtifactError(f"{self.path}: the manifest names no file of the engine {engine.path}")

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights' files."""
        return sum(e.size for e in self.manifest.files if e.role == "weights")

    def verify(self, progress: ByteProgress | None = None, *, weights: bool | None = None) -> None:
        """Read every file once and compare its sha256 with the manifest.

        Args:
            progress: Told of the bytes read, before the first of them, too.
            weights: Read the weights' files only, or all others only.

        Raises:
            ArtifactError: A file cannot be read, or is not what the exporter wrote.
        """
        entries = [e for e in self.manifest.files if weights in (None, e.role == "weights")]
        total = sum(entry.size for entry in entries)
        done = 0
        for entry in entries:
            digest = hashlib.sha256()
            try:
                for window in _windows(self.path / entry.path):
                    if progress is not None:
                        progress(done, total)
                    digest.update(window)
                    done += len(window)
            except OSError as error:
                raise ArtifactError(f"{self.path / entry.path}: cannot be read: {error}") from error
            if digest.hexdigest() != entry.sha256:
                raise ArtifactError(
                    f"{self.path}: {entry.path} is corrupt (sha256 differs from the manifest); "
                    "export the model again"
                )
        if progress is not None:
            progress(done, total)


def _windows(file: Path) -> Iterator[mmap.mmap]:
    """Yield the bytes of a file in pieces, valid until the next.

    Raises:
        OSError: It cannot be read.
    """
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        for start in range(0, size, _WINDOW):
            count = min(_WINDOW, size - start)
            with mmap.mmap(stream.fileno(), count, prot=mmap.PROT_READ, offset=start) as window:
                yield window


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST_NAME
    if not path.is_dir():
        raise ArtifactError(f"{path}: no such artifact directory; make one with rbee-export")
    try:
        if not file.is_file() and file.exists():
            raise OSError("not a regular file")
        if file.exists() and file.stat().st_size > _LARGEST_MANIFEST:
            raise OSError(f"{file.stat().st_size} bytes are far more than any manifest has")
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: not an artifact (no {MANIFEST_NAME}); make one with rbee-export"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{file}: cannot be read: {error}; export the model again") from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    known = range(OLDEST_FORMAT_VERSION, FORMAT_VERSION + 1)
    if isinstance(version, int) and version not in known and abs(version) < 1 << 31:
        age, remedy = (
            ("newer", "upgrade the worker or ") if version > FORMAT_VERSION else ("older", "")
        )
        raise ArtifactError(
            f"{file}: format version {version} is {age} than this runtime reads "
            f"({OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}); {remedy}export the model again"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "document"
        if not where.isprintable() or len(where) > _SHOWN:
            where = f"{where[:_SHOWN]!r}"
        raise ArtifactError(
            f"{file}: invalid manifest at {where}: {fault['msg']}; export the model again"
        ) from error
