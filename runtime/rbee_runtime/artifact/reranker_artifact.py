"""The artifact of a reranker."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from rbee_runtime.artifact.directory import Directory
from rbee_runtime.artifact.reading import read_manifest
from rbee_runtime.artifact.reranker_manifest import RerankerManifest


class RerankerArtifact(Directory[RerankerManifest]):
    """An opened artifact of a reranker: the directory and its manifest."""

    __slots__ = ()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the manifest and check that every file it names is there, at its size.

        Raises:
            ArtifactError: No manifest, a newer or invalid one, one of another kind of model, or a
                file missing or cut short.
        """
        manifest = read_manifest(path, "rerank", RerankerManifest)
        return cls(path, manifest).check("graph", "tokenizer")
