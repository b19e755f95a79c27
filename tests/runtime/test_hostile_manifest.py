"""A manifest of any content is a manifest, or a line that says why not."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.makers import MakeArtifact, MakeEncoder

from rbee_runtime.artifact import MANIFEST_NAME, Artifact, open_artifact
from rbee_runtime.errors import ArtifactError

QUIET = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**40, 1e999, -0.0])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "/etc/passwd", "a\nb", "\x00", "x" * 5000, "artifact.json", "."])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@pytest.fixture(params=["generate", "embed"])
def artifact(
    request: pytest.FixtureRequest,
    tiny_artifact: Path,
    make_encoder: MakeEncoder,
    make_embedder: MakeArtifact,
    tmp_path: Path,
) -> Path:
    made = tiny_artifact if request.param == "generate" else make_embedder(make_encoder(), "int8")
    return Path(shutil.copytree(made, tmp_path / "artifact", dirs_exist_ok=True))


def opened_or_refused(artifact: Path) -> None:
    said = ""
    try:
        opened = open_artifact(artifact)
    except ArtifactError as error:
        said = str(error)
        assert said.startswith(str(artifact))
        assert len(said) < len(str(artifact)) + 400
    else:
        # Whoever reads on relies on these.
        manifest = opened.manifest
        assert all((artifact / entry.path).is_file() for entry in manifest.files)
        assert all(
            (artifact / entry.path).resolve().is_relative_to(artifact.resolve())
            for entry in manifest.files
        )
        assert not isinstance(opened, Artifact) or opened.manifest.cache.bytes_per_token > 0
        json.loads(manifest.model_dump_json())
    assert "\n" not in said


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values within a document, its own first."""
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += places(inner, (*path, index))
    return found


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = replaced(document[path[0]], path[1:], value)
    return copy


@given(data=st.data(), value=VALUES)
@QUIET
def test_any_value_in_any_place(data: st.DataObject, value: object, artifact: Path) -> None:
    file = artifact / MANIFEST_NAME
    original = file.read_text()
    document = json.loads(original)
    path = data.draw(st.sampled_from(places(document)))
    file.write_text(json.dumps(replaced(document, path, value)))
    try:
        opened_or_refused(artifact)
    finally:
        file.write_text(original)


@given(cut=st.tuples(st.floats(0, 1), st.integers(0, 40)), data=st.binary(max_size=20))
@example(cut=(0.0, 10**6), data=b"")
@example(cut=(0.5, 0), data=b"\xff")
@example(cut=(0.0, 0), data=b'{"format_version": 3}' * 2)
@QUIET
def test_any_bytes_in_any_place(cut: tuple[float, int], data: bytes, artifact: Path) -> None:
    file = artifact / MANIFEST_NAME
    original = file.read_bytes()
    start = int(cut[0] * len(original))
    file.write_bytes(original[:start] + data + original[start + cut[1] :])
    try:
        opened_or_refused(artifact)
    finally:
        file.write_bytes(original)


@given(document=VALUES)
@QUIET
def test_any_document(document: object, artifact: Path) -> None:
    (artifact / MANIFEST_NAME).write_text(json.dumps(document))
    with pytest.raises(ArtifactError):
        open_artifact(artifact)


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "",
        ".",
        "..",
        "a\nb",
        "\x00",
        "x" * 5000,
        "a\\b",
        "\ud800",
    ],
)
def test_a_path_that_is_none(path: str, artifact: Path) -> None:
    file = artifact / MANIFEST_NAME
    document = json.loads(file.read_text())
    document["files"][0]["path"] = path
    file.write_text(json.dumps(document))
    with pytest.raises(ArtifactError) as caught:
        open_artifact(artifact)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(artifact)) + 400


@pytest.mark.parametrize("key", ["a\nb", "x" * 5000, "\x1b[31m", "\ud800"])
def test_a_key_that_nobody_knows(key: str, artifact: Path) -> None:
    file = artifact / MANIFEST_NAME
    document = json.loads(file.read_text())
    document["shapes"][key] = 1
    file.write_text(json.dumps(document))
    with pytest.raises(ArtifactError) as caught:
        open_artifact(artifact)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(artifact)) + 400


@pytest.mark.parametrize("number", ["9" * 10_000, "-" + "9" * 10_000, "1e999999", "NaN"])
def test_numbers_that_are_none(number: str, artifact: Path) -> None:
    file = artifact / MANIFEST_NAME
    text = file.read_text()
    for key in ("layers", "context_length", "format_version"):
        changed, count = re.subn(rf'("{key}": )\d+', rf"\g<1>{number}", text)
        assert count
        file.write_text(changed)
        with pytest.raises(ArtifactError) as caught:
            open_artifact(artifact)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < len(str(artifact)) + 400


def test_a_pipe_is_no_manifest(artifact: Path) -> None:
    (artifact / MANIFEST_NAME).unlink()
    os.mkfifo(artifact / MANIFEST_NAME)  # whoever opened it would wait for ever
    with pytest.raises(ArtifactError):
        open_artifact(artifact)


def test_a_manifest_of_gigabytes_is_not_read(artifact: Path) -> None:
    os.truncate(artifact / MANIFEST_NAME, 2**40)
    with pytest.raises(ArtifactError):
        open_artifact(artifact)
