"""An artifact of an embedding model is opened as what it is, and language models stay apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.artifact import (
    MANIFEST_NAME,
    Artifact,
    EmbedderArtifact,
    open_artifact,
    task_of,
)
from rbee_runtime.engine import Engine
from rbee_runtime.errors import ArtifactError

FILES = {"graph": "model.onnx", "weights": "model.onnx.data", "tokenizer": "tokenizer.json"}


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A directory that is whole, though nothing in it would load."""
    path = tmp_path / "encoder"
    path.mkdir()
    files = []
    for role, name in FILES.items():
        (path / name).write_bytes(role.encode())
        digest = hashlib.sha256(role.encode()).hexdigest()
        files.append({"role": role, "path": name, "size": len(role), "sha256": digest})
    document = {
        "format_version": 5,
        "task": "embed",
        "exporter": "test",
        "source": {"format": "safetensors", "name": "MiniLM", "sha256": "0" * 64},
        "model_ref": "hf:org/MiniLM",
        "family": "bert",
        "shapes": {
            "layers": 6,
            "hidden": 384,
            "intermediate": 1536,
            "heads": 12,
            "vocab": 30522,
            "context_length": 256,
        },
        "precision": "int8",
        "dialect": "ort",
        "embedding": {"dim": 384, "pooling": "mean", "normalized": True},
        "files": files,
    }
    (path / MANIFEST_NAME).write_text(json.dumps(document))
    return path


def rewrite(artifact: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = artifact / MANIFEST_NAME
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def refusal(path: Path, act: Callable[[Path], object]) -> str:
    with pytest.raises(ArtifactError) as caught:
        act(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def test_a_whole_one(encoder: Path) -> None:
    artifact = EmbedderArtifact.open(encoder)
    manifest = artifact.manifest
    assert (manifest.embedding.dim, manifest.embedding.prompt) == (384, "")
    assert manifest.fidelity is None
    assert artifact.file("graph") == encoder / "model.onnx"
    assert artifact.weight_bytes == len("weights")
    artifact.verify()
    assert json.loads(manifest.model_dump_json())["task"] == "embed"


def test_each_kind_is_known_by_its_manifest(encoder: Path, tiny_artifact: Path) -> None:
    assert (task_of(encoder), task_of(tiny_artifact)) == ("embed", "generate")
    assert isinstance(open_artifact(encoder), EmbedderArtifact)
    assert isinstance(open_artifact(tiny_artifact), Artifact)


@pytest.mark.parametrize("act", [Artifact.open, Engine.load])
def test_it_is_no_language_model(act: Callable[[Path], object], encoder: Path) -> None:
    said = refusal(encoder, act)
    assert said == ": is an embedding model: rbee-embed and rbee-worker run it"


def test_a_language_model_is_none(tiny_artifact: Path) -> None:
    said = refusal(tiny_artifact, EmbedderArtifact.open)
    assert said == ": is a language model: rbee-generate and rbee-worker run it"


@pytest.mark.parametrize("act", [EmbedderArtifact.open, open_artifact])
@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda m: m.update(task="rank"), "task"),
        (lambda m: m.update(colour="red"), "colour"),
        (lambda m: m.update(dialect="standard"), "dialect"),
        (lambda m: m["embedding"].update(pooling="max"), "embedding.pooling"),
        (lambda m: m["embedding"].update(dim=0), "embedding.dim"),
        (lambda m: m["shapes"].update(heads=7), "shapes"),
        (lambda m: m["shapes"].update(kv_heads=2), "shapes"),
        (lambda m: m["shapes"].update(kv_heads=5, head_dim=16), "shapes"),
        (lambda m: m["embedding"].update(matryoshka=[1 << 20]), "embedding"),
        (lambda m: m["embedding"].update(matryoshka="some"), "embedding.matryoshka.literal['any']"),
        (lambda m: m["embedding"].update(prompts={"query": 3}), "embedding.prompts.query"),
        (lambda m: m.update(cache={}), "cache"),
        (lambda m: m["files"][0].update(path="../x"), "files.0.path"),
    ],
)
def test_a_wrong_field(
    change: Callable[[dict[str, Any]], object],
    where: str,
    act: Callable[[Path], object],
    encoder: Path,
) -> None:
    rewrite(encoder, change)
    said = refusal(encoder, act)
    assert said.startswith(f"/{MANIFEST_NAME}: invalid manifest at {where}: ")
    assert said.endswith("; export the model again")


@pytest.mark.parametrize("role", FILES)
def test_every_file_is_needed(role: str, encoder: Path) -> None:
    (encoder / FILES[role]).unlink()
    assert f"{FILES[role]} is missing" in refusal(encoder, EmbedderArtifact.open)


@pytest.mark.parametrize("role", FILES)
def test_every_role_is_needed(role: str, encoder: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"] = [e for e in manifest["files"] if e["role"] != role]

    rewrite(encoder, change)
    assert role in refusal(encoder, open_artifact)


@pytest.mark.parametrize("act", [task_of, open_artifact])
def test_neither(act: Callable[[Path], object], tmp_path: Path, encoder: Path) -> None:
    assert "no such artifact directory" in refusal(tmp_path / "gone", act)
    assert "not an artifact" in refusal(tmp_path, act)
    rewrite(encoder, lambda m: m.update(format_version=9))
    assert "format version 9 is newer than this runtime reads (3 to 8)" in refusal(encoder, act)
