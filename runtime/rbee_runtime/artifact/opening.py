"""Opening an artifact as what its model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rbee_runtime.artifact.artifact import Artifact
from rbee_runtime.artifact.reading import task_of

if TYPE_CHECKING:
    from rbee_runtime.artifact.embedder_artifact import EmbedderArtifact


def open_artifact(path: Path) -> Artifact | EmbedderArtifact:
    """Open an artifact of any kind.

    Raises:
        ArtifactError: No manifest, a newer or invalid one, or a file missing or cut short.
    """
    if task_of(path) == "generate":
        return Artifact.open(path)
    from rbee_runtime.artifact.embedder_artifact import EmbedderArtifact

    return EmbedderArtifact.open(path)
