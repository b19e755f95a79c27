"""An artifact is opened whole or refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.makers import MakeArtifact, MakeLlama

from rbee_runtime.artifact import Artifact
from rbee_runtime.engine import Engine
from rbee_runtime.errors import ArtifactError


@pytest.fixture
def copy(tiny_artifact: Path, tmp_path: Path) -> Path:
    """An artifact to damage."""
    return Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))


def refusal(path: Path, act: Callable[[Path], object] = Artifact.open) -> str:
    with pytest.raises(ArtifactError) as caught:
        act(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def rewrite(artifact: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = artifact / "artifact.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def entry(manifest: dict[str, Any], role: str) -> dict[str, Any]:
    found: dict[str, Any] = next(e for e in manifest["files"] if e["role"] == role)
    return found


def replace_file(artifact: Path, role: str, content: bytes) -> None:
    """Put other content in a file's place, and in the manifest, too."""

    def change(manifest: dict[str, Any]) -> None:
        described = entry(manifest, role)
        (artifact / described["path"]).write_bytes(content)
        described["size"] = len(content)
        described["sha256"] = hashlib.sha256(content).hexdigest()

    rewrite(artifact, change)


def test_a_whole_one(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    for role in ("graph", "weights", "tokenizer"):
        assert artifact.file(role).is_file()  # type: ignore[arg-type]
    assert artifact.weight_bytes == artifact.file("weights").stat().st_size
    seen: list[tuple[int, int]] = []
    artifact.verify(lambda done, total: seen.append((done, total)))
    total = sum(file.size for file in artifact.manifest.files)
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


def test_no_directory(tmp_path: Path) -> None:
    assert "no such artifact directory; make one with rbee-export" in refusal(tmp_path / "gone")


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    assert "a file, not an artifact directory; rbee-export --model" in refusal(tmp_path / "model")


def test_no_manifest(tmp_path: Path) -> None:
    assert "not an artifact (no artifact.json)" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_json(content: bytes, copy: Path) -> None:
    (copy / "artifact.json").write_bytes(content)
    said = refusal(copy)
    assert "artifact.json: cannot be read: " in said
    assert said.endswith("; export the model again")


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "{}"])
def test_a_manifest_that_is_something_else(content: str, copy: Path) -> None:
    (copy / "artifact.json").write_text(content)
    said = refusal(copy)
    assert "artifact.json: invalid manifest at " in said
    assert said.endswith("; export the model again")


def test_a_manifest_of_a_newer_version(copy: Path) -> None:
    rewrite(copy, lambda m: m.update(format_version=9, precision="fp2", new_field=1))
    message = refusal(copy)
    assert "format version 9 is newer than this runtime reads (3 to 8)" in message
    assert "upgrade the worker or export the model again" in message


INVALID: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version in words": (lambda m: m.update(format_version="new"), "format_version"),
    "unknown field": (lambda m: m.update(colour="red"), "colour"),
    "unknown precision": (lambda m: m.update(precision="int3"), "precision"),
    "unknown dialect": (lambda m: m.update(dialect="latin"), "dialect"),
    "missing field": (lambda m: m.pop("shapes"), "shapes"),
    "no layers": (lambda m: m["shapes"].update(layers=0), "shapes.layers"),
    "negative vocabulary": (lambda m: m["shapes"].update(vocab=-5), "shapes.vocab"),
    "half a head": (lambda m: m["cache"].update(head_dim=0.5), "cache.head_dim"),
    "cache of a new type": (lambda m: m["cache"].update(dtype="int8"), "cache.dtype"),
    "unknown role": (lambda m: m["files"][0].update(role="poem"), "files.0.role"),
    "no digest": (lambda m: m["files"][0].update(sha256="0"), "files.0.sha256"),
    "negative size": (lambda m: m["files"][0].update(size=-1), "files.0.size"),
    "ends in words": (lambda m: m.update(eos_token_ids=["</s>"]), "eos_token_ids.0"),
}


@pytest.mark.parametrize("case", INVALID)
def test_a_manifest_with_a_wrong_field(case: str, copy: Path) -> None:
    change, where = INVALID[case]
    rewrite(copy, change)
    assert f"artifact.json: invalid manifest at {where}: " in refusal(copy)


@pytest.mark.parametrize(
    "path", ["../model.onnx", "/etc/passwd", "a/../../b", "..", ".", "", "a\\..\\b"]
)
def test_a_file_outside_the_directory(path: str, copy: Path) -> None:
    rewrite(copy, lambda m: entry(m, "graph").update(path=path))
    assert "must be a relative path inside the artifact" in refusal(copy)


@pytest.mark.parametrize("role", ["graph", "weights", "tokenizer"])
def test_a_missing_file(role: str, copy: Path) -> None:
    file = Artifact.open(copy).file(role)  # type: ignore[arg-type]
    file.unlink()
    assert f"{file.name} is missing; export the model again" in refusal(copy)


@pytest.mark.parametrize("role", ["graph", "weights", "tokenizer"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size(role: str, change: int, copy: Path) -> None:
    file = Artifact.open(copy).file(role)  # type: ignore[arg-type]
    size = file.stat().st_size
    os.truncate(file, size + change)
    assert f"{file.name} has {size + change} bytes, its manifest says {size}" in refusal(copy)


@pytest.mark.parametrize("role", ["graph", "weights", "tokenizer"])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_a_flipped_bit(role: str, where: float, copy: Path) -> None:
    file = Artifact.open(copy).file(role)  # type: ignore[arg-type]
    content = bytearray(file.read_bytes())
    content[int(where * (len(content) - 1))] ^= 0x10
    file.write_bytes(content)
    artifact = Artifact.open(copy)
    assert f"{file.name} is corrupt (sha256 differs from the manifest)" in refusal(
        copy, lambda _: artifact.verify()
    )
    assert "is corrupt" in refusal(copy, Engine.load)


def test_a_manifest_of_an_older_version(copy: Path) -> None:
    rewrite(copy, lambda m: m.update(format_version=2))
    assert "format version 2 is older than this runtime reads (3 to 8)" in refusal(copy)


def test_weights_are_needed(copy: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"] = [e for e in manifest["files"] if e["role"] != "weights"]

    rewrite(copy, change)
    assert "names no weights file" in refusal(copy)


@pytest.mark.parametrize("role", ["graph", "tokenizer"])
@pytest.mark.parametrize("count", [0, 2])
def test_each_role_has_one_file(role: str, count: int, copy: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        one = entry(manifest, role)
        others = [e for e in manifest["files"] if e["role"] != role]
        manifest["files"] = others + [one] * count

    rewrite(copy, change)
    assert f"the manifest must name exactly one {role} file" in refusal(copy)


def test_a_graph_that_is_none(copy: Path) -> None:
    replace_file(copy, "graph", b"not a graph")
    replace_file(copy, "half_cache_graph", b"nor this")
    assert "ONNX Runtime cannot load the graph" in refusal(copy, Engine.load)


def test_a_graph_of_another_model(
    copy: Path, make_llama: MakeLlama, make_artifact: MakeArtifact
) -> None:
    other = make_artifact(make_llama(num_hidden_layers=3), "int8")
    for role, graph in (
        ("graph", Artifact.open(other).file("graph")),
        ("half_cache_graph", Artifact.open(other).half_cache_graph),
    ):
        assert graph is not None
        replace_file(copy, role, graph.read_bytes())
    assert "graph" in refusal(copy, Engine.load)


def test_a_tokenizer_that_is_none(copy: Path) -> None:
    replace_file(copy, "tokenizer", b"{}")
    assert "not a tokenizer" in refusal(copy, Engine.load)
