"""The directory of an artifact, checked against its manifest."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar

from rbee_runtime.artifact.parts import Role
from rbee_runtime.errors import ArtifactError

if TYPE_CHECKING:
    from rbee_runtime.artifact.embedder_manifest import EmbedderManifest
    from rbee_runtime.artifact.manifest import Manifest
    from rbee_runtime.artifact.reranker_manifest import RerankerManifest

AnyManifest = TypeVar("AnyManifest", "Manifest", "EmbedderManifest", "RerankerManifest")

ByteProgress = Callable[[int, int], None]
"""Called with bytes done and bytes in total."""

_WINDOW = 64 << 20
"""Bytes of a file that are mapped and hashed at a time, without the interpreter's lock."""


@dataclass(frozen=True, slots=True)
class Directory(Generic[AnyManifest]):
    """A directory and the manifest that says what is in it.

    Attributes:
        path: The directory.
        manifest: Its parsed ``artifact.json``.
    """

    path: Path
    manifest: AnyManifest

    def check(self, *once: Role) -> Self:
        """Check that every file is there, at its size, and that there are all that are needed.

        Args:
            once: Roles of which there must be one file, besides those of weights.

        Raises:
            ArtifactError: A file is missing or cut short, or the manifest names none of a role.
        """
        path, files = self.path, self.manifest.files
        for entry in files:
            file = path / entry.path
            if not file.is_file():
                raise ArtifactError(f"{path}: {entry.path} is missing; export the model again")
            size = file.stat().st_size
            if size != entry.size:
                raise ArtifactError(
                    f"{path}: {entry.path} has {size} bytes, its manifest says {entry.size}; "
                    "export the model again"
                )
        roles = [entry.role for entry in files]
        for role in once:
            if roles.count(role) != 1:
                raise ArtifactError(
                    f"{path}: the manifest must name exactly one {role} file; "
                    "export the model again"
                )
        if "weights" not in roles:
            raise ArtifactError(f"{path}: the manifest names no weights file")
        return self

    def file(self, role: Literal["graph", "tokenizer", "greedy", "sampler"]) -> Path:
        """Return the path of the file with this role."""
        return next(self.path / e.path for e in self.manifest.files if e.role == role)

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
