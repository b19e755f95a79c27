"""The artifact of a model of embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from rbee_runtime.artifact.directory import Directory
from rbee_runtime.artifact.embedder_manifest import EmbedderManifest
from rbee_runtime.artifact.reading import read_manifest


class EmbedderArtifact(Directory[EmbedderManifest]):
    """An opened artifact of a model of embeddings: the directory and its manifest."""

    __slots__ = ()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the manifest and check that every file it names is there, at its size.

        Raises:
            ArtifactError: No manifest, a newer or invalid one, one of another kind of model, or a
                file missing or cut short.
        """
        manifest = read_manifest(path, "embed", EmbedderManifest)
        return cls(path, manifest).check("graph", "tokenizer")
