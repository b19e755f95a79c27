"""The artifact: a directory that export writes and runtime trusts.

``artifact.json`` is the manifest; every other file is named in it with its size and sha256. A model
is a language model or one of embeddings: each kind has a manifest of its own. The graph's inputs
and outputs follow from its dialect and are described in ``docs/artifact.md``.
"""

from typing import TYPE_CHECKING

from rbee_runtime.artifact.artifact import Artifact
from rbee_runtime.artifact.directory import ByteProgress
from rbee_runtime.artifact.geometry import CacheGeometry, StateGeometry
from rbee_runtime.artifact.manifest import (
    Engine,
    EngineProfile,
    ExpertShapes,
    Fidelity,
    LongRope,
    Manifest,
    Shapes,
)
from rbee_runtime.artifact.opening import open_artifact
from rbee_runtime.artifact.parts import (
    Dialect,
    FileEntry,
    Precision,
    Role,
    Sha256,
    Source,
    WeightGroup,
)
from rbee_runtime.artifact.reading import FORMAT_VERSION, MANIFEST_NAME, Task, task_of

if TYPE_CHECKING:
    from rbee_runtime.artifact.embedder_artifact import EmbedderArtifact
    from rbee_runtime.artifact.embedder_manifest import (
        EmbedderManifest,
        EmbedderShapes,
        Embedding,
        EmbeddingFidelity,
    )

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "Artifact",
    "ByteProgress",
    "CacheGeometry",
    "Dialect",
    "EmbedderArtifact",
    "EmbedderManifest",
    "EmbedderShapes",
    "Embedding",
    "EmbeddingFidelity",
    "Engine",
    "EngineProfile",
    "ExpertShapes",
    "Fidelity",
    "FileEntry",
    "LongRope",
    "Manifest",
    "Precision",
    "Role",
    "Sha256",
    "Shapes",
    "Source",
    "StateGeometry",
    "Task",
    "WeightGroup",
    "open_artifact",
    "task_of",
]


def __getattr__(name: str) -> object:
    """Import what is of embedding models only when somebody asks for it: others start sooner."""
    if name == "EmbedderArtifact":
        from rbee_runtime.artifact.embedder_artifact import EmbedderArtifact

        return EmbedderArtifact
    if name in ("EmbedderManifest", "Embedding", "EmbeddingFidelity", "EmbedderShapes"):
        import rbee_runtime.artifact.embedder_manifest as described

        return getattr(described, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
