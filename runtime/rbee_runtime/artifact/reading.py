"""Reading a manifest, of a model of any kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import ValidationError

from rbee_runtime.artifact.directory import AnyManifest
from rbee_runtime.errors import ArtifactError
from rbee_runtime.units import human_size

MANIFEST_NAME = "artifact.json"
FORMAT_VERSION = 8
OLDEST_FORMAT_VERSION = 3
"""From version 4 on there may be a ``half_cache_graph``, which has ``slots`` from 6 on; 5 is of
embedding models alone, 7 of language models with a state, 8 of rerankers."""

Task = Literal["generate", "embed", "rerank"]
"""What a model is for: texts that go on, vectors of texts, or how well texts answer a query."""

_TASKS: Mapping[object, Task] = MappingProxyType({5: "embed", 8: "rerank"})
"""What the models of a version are for, where that is not to go on."""
_WHAT_RUNS: Mapping[Task, str] = MappingProxyType(
    {
        "generate": "is a language model: rbee-generate and rbee-worker run it",
        "embed": "is an embedding model: rbee-embed and rbee-worker run it",
        "rerank": "is a reranker: rbee-worker runs it",
    }
)
_LARGEST_MANIFEST = 16 << 20
_SHOWN = 100


def task_of(path: Path) -> Task:
    """Return what the model of an artifact directory is for, by its manifest's version.

    Raises:
        ArtifactError: No manifest, or one of a version that this runtime does not read.
    """
    return _task(_document(path))


def read_manifest(path: Path, task: Task, kind: type[AnyManifest]) -> AnyManifest:
    """Return the manifest in an artifact directory.

    Args:
        path: The directory.
        task: What its model is to be for.
        kind: The manifest that such models have.

    Raises:
        ArtifactError: There is none, a newer or invalid one, or one of a model for something else.
    """
    raw = _document(path)
    found = _task(raw)
    if found != task:
        raise ArtifactError(f"{path}: {_WHAT_RUNS[found]}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "document"
        if not where.isprintable() or len(where) > _SHOWN:
            where = f"{where[:_SHOWN]!r}"
        raise ArtifactError(
            f"{path / MANIFEST_NAME}: invalid manifest at {where}: {fault['msg']}; "
            "export the model again"
        ) from error


def _document(path: Path) -> object:
    """Return what the manifest's file holds, of a version that this runtime reads."""
    file = path / MANIFEST_NAME
    if path.is_file():
        raise ArtifactError(
            f"{path}: a file, not an artifact directory; rbee-export --model makes one of a model"
        )
    if not path.is_dir():
        raise ArtifactError(f"{path}: no such artifact directory; make one with rbee-export")
    try:
        if not file.is_file() and file.exists():
            raise OSError("not a regular file")
        if file.exists() and file.stat().st_size > _LARGEST_MANIFEST:
            raise OSError(f"{human_size(file.stat().st_size)} are far more than any manifest has")
        raw: object = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: not an artifact (no {MANIFEST_NAME}); make one with rbee-export"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{file}: cannot be read: {error}; export the model again") from error
    version = _version(raw)
    known = range(OLDEST_FORMAT_VERSION, FORMAT_VERSION + 1)
    if isinstance(version, int) and version not in known and abs(version) < 1 << 31:
        age, remedy = (
            ("newer", "upgrade the worker or ") if version > FORMAT_VERSION else ("older", "")
        )
        raise ArtifactError(
            f"{file}: format version {version} is {age} than this runtime reads "
            f"({OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}); {remedy}export the model again"
        )
    return raw


def _version(raw: object) -> object:
    return raw.get("format_version") if isinstance(raw, dict) else None


def _task(raw: object) -> Task:
    version = _version(raw)
    return _TASKS.get(version, "generate") if isinstance(version, int) else "generate"
