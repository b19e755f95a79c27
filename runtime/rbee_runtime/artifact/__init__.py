"""The artifact: a directory that export writes and runtime trusts.

``artifact.json`` is the manifest; every other file is named in it with its size and sha256. A model
is a language model, one of embeddings or a reranker: each kind has a manifest of its own. The
graph's inputs and outputs follow from its dialect and are described in ``docs/artifact.md``.
"""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
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
        Embedding,
        EmbeddingFidelity,
    )
    from rbee_runtime.artifact.reranker_artifact import RerankerArtifact
    from rbee_runtime.artifact.reranker_manifest import RankingFidelity, RerankerManifest, Scoring
    from rbee_runtime.artifact.text_manifest import TextManifest, TextShapes

    TextArtifact = EmbedderArtifact | RerankerArtifact
    """Of a model that reads whole texts."""
    AnyArtifact = Artifact | TextArtifact

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "Artifact",
    "ByteProgress",
    "CacheGeometry",
    "Dialect",
    "EmbedderArtifact",
    "EmbedderManifest",
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
    "RankingFidelity",
    "RerankerArtifact",
    "RerankerManifest",
    "Role",
    "Scoring",
    "Sha256",
    "Shapes",
    "Source",
    "StateGeometry",
    "Task",
    "TextManifest",
    "TextShapes",
    "WeightGroup",
    "open_artifact",
    "task_of",
]


_LATER: Mapping[str, str] = MappingProxyType(
    {
        "EmbedderArtifact": "embedder_artifact",
        "EmbedderManifest": "embedder_manifest",
        **dict.fromkeys(("Embedding", "EmbeddingFidelity"), "embedder_manifest"),
        "RerankerArtifact": "reranker_artifact",
        **dict.fromkeys(("RerankerManifest", "RankingFidelity", "Scoring"), "reranker_manifest"),
        **dict.fromkeys(("TextManifest", "TextShapes"), "text_manifest"),
    }
)
"""What is not of language models, and where it is."""


def __getattr__(name: str) -> object:
    """Import what is not of language models only when somebody asks for it: those start sooner."""
    if name in _LATER:
        return getattr(import_module(f"rbee_runtime.artifact.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
