"""Opening an artifact as what its model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rbee_runtime.artifact.artifact import Artifact
from rbee_runtime.artifact.reading import task_of

if TYPE_CHECKING:
    from rbee_runtime.artifact import AnyArtifact


def open_artifact(path: Path) -> AnyArtifact:
    """Open an artifact of any kind.

    Raises:
        ArtifactError: No manifest, a newer or invalid one, or a file missing or cut short.
    """
    task = task_of(path)
    if task == "generate":
        return Artifact.open(path)
    if task == "rerank":
        from rbee_runtime.artifact.reranker_artifact import RerankerArtifact

        return RerankerArtifact.open(path)
    from rbee_runtime.artifact.embedder_artifact import EmbedderArtifact

    return EmbedderArtifact.open(path)
