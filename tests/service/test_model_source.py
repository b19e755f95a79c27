"""What ``--model`` may name, and how a checkpoint gets exported on the way."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from stand_in import MODEL, stand_in_artifact

from rbee_export.export import reference
from rbee_runtime.artifact import MANIFEST_NAME
from rbee_runtime.artifact.cache import artifact_cache
from rbee_runtime.errors import ArtifactError
from rbee_service.model_source import model_reference, resolve_model

EXPORTER = """
import json, os, pathlib, sys, time
here = pathlib.Path(__file__).parent
(here / "arguments").write_text(json.dumps(sys.argv[1:]))
(here / "pid").write_text(str(os.getpid()))
exec((here / "script").read_text())
"""


@pytest.fixture
def exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an exporter in place that does what its ``script`` says."""
    package = tmp_path / "path" / "rbee_export"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(EXPORTER)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return package


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.touch()
    return path


async def test_an_artifact_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).touch()
    assert await resolve_model(tmp_path, Path("nowhere")) == tmp_path


def test_an_artifact_is_announced_as_its_manifest_says(tmp_path: Path) -> None:
    assert model_reference(stand_in_artifact(tmp_path)) == MODEL


@pytest.mark.parametrize("name", ["Tiny model.Q4_1.gguf", "a directory, of safetensors", "größe"])
def test_a_checkpoint_is_announced_as_its_export_will_be(tmp_path: Path, name: str) -> None:
    assert model_reference(tmp_path / name) == reference(name)


@pytest.mark.parametrize("kind", ["missing", "empty directory", "text file"])
async def test_what_is_no_model(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model"
    if kind == "empty directory":
        path.mkdir()
    if kind == "text file":
        path.write_text("x")
    with pytest.raises(ArtifactError, match="model: ") as caught:
        await resolve_model(path, tmp_path)
    assert "\n" not in str(caught.value)


async def test_a_model_that_would_have_to_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="rbee-export --model hf:org/name"):
        await resolve_model(Path("hf:org/name"), tmp_path)


@pytest.mark.parametrize("kind", ["gguf", "gguf without suffix", "safetensors"])
async def test_a_checkpoint_is_exported(tmp_path: Path, exporter: Path, kind: str) -> None:
    model = tmp_path / "m.gguf"
    if kind == "gguf":
        model.touch()
    elif kind == "gguf without suffix":
        model = tmp_path / "sha256-0123"
        model.write_bytes(b"GGUF\3")
    else:
        model = tmp_path / "m"
        model.mkdir()
        (model / "model.safetensors").touch()
    (exporter / "script").write_text(
        'print("50 %\\r100 %", file=sys.stderr)\nprint("note")\nprint("/cache/the artifact")\n'
    )
    cache = tmp_path / "cache"
    assert await resolve_model(model, cache) == Path("/cache/the artifact")
    assert (exporter / "arguments").read_text() == (
        f'["--model", "{model}", "--cache", "{cache}", "--no-verify", "--print-path"]'
    )


async def test_the_exporter_s_last_words_are_passed_on(exporter: Path, checkpoint: Path) -> None:
    (exporter / "script").write_text(
        'print("x" * 100000, file=sys.stderr)\n'
        'print("rbee-export: model.gguf: unsupported architecture mamba", file=sys.stderr)\n'
        "sys.exit(3)\n"
    )
    with pytest.raises(ArtifactError, match=r"^model\.gguf: unsupported architecture mamba$"):
        await resolve_model(checkpoint, Path("cache"))


@pytest.mark.parametrize("script", ["sys.exit(9)", "pass", "os.kill(os.getpid(), 9)"])
async def test_an_exporter_without_words(exporter: Path, checkpoint: Path, script: str) -> None:
    (exporter / "script").write_text(script)
    with pytest.raises(ArtifactError, match=r"model\.gguf: the exporter"):
        await resolve_model(checkpoint, Path("cache"))


async def test_how_far_a_killed_exporter_was_is_not_why(exporter: Path, checkpoint: Path) -> None:
    (exporter / "script").write_text(
        'print("rbee-export: layers, 50%", file=sys.stderr, flush=True)\nos.kill(os.getpid(), 9)\n'
    )
    with pytest.raises(
        ArtifactError, match=r"the exporter was ended by SIGKILL; it last said: layers, 50%$"
    ):
        await resolve_model(checkpoint, Path("cache"))


@pytest.mark.parametrize("outlasts", [False, True])
async def test_cancelling_ends_the_exporter_or_leaves_it(
    exporter: Path, checkpoint: Path, outlasts: bool
) -> None:
    (exporter / "script").write_text("while not (here / 'let go').exists(): time.sleep(0.01)\n")
    resolving = asyncio.create_task(resolve_model(checkpoint, Path("cache"), outlasts=outlasts))
    async with asyncio.timeout(10):
        while not (exporter / "pid").exists() or not (exporter / "pid").read_text():
            await asyncio.sleep(0.01)
    pid = int((exporter / "pid").read_text())
    assert alive(pid)
    resolving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await resolving
    if outlasts:
        assert alive(pid)
        (exporter / "let go").touch()
    async with asyncio.timeout(10):
        while alive(pid):
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_cache() -> None:
    assert artifact_cache({"RBEE_ARTIFACT_CACHE": "/big/disk"}) == Path("/big/disk")
    assert artifact_cache({}).parts[-2:] == ("rbee", "artifacts")
