"""The artifact: a directory that export writes and runtime trusts.

``artifact.json`` is the manifest; every other file is named in it with its size and sha256. The
graph's inputs and outputs follow from its dialect and are described in ``docs/artifact.md``.
"""

from rbee_runtime.artifact.directory import MANIFEST_NAME, Artifact, ByteProgress
from rbee_runtime.artifact.manifest import (
    FORMAT_VERSION,
    CacheGeometry,
    Dialect,
    Engine,
    EngineProfile,
    Fidelity,
    FileEntry,
    LongRope,
    Manifest,
    Precision,
    Role,
    Sha256,
    Shapes,
    Source,
    WeightGroup,
)

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "Artifact",
    "ByteProgress",
    "CacheGeometry",
    "Dialect",
    "Engine",
    "EngineProfile",
    "Fidelity",
    "FileEntry",
    "LongRope",
    "Manifest",
    "Precision",
    "Role",
    "Sha256",
    "Shapes",
    "Source",
    "WeightGroup",
]
