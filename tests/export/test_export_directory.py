"""An artifact appears whole or not at all, and always with the same bytes."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
from support.makers import MakeGguf, MakeLlama
from support.sentencepiece_models import trained_model
from support.tiny_llama import copy_of
from tokenizers import Tokenizer

from rbee_export import ExportError, Options, digest, export, identity, open_checkpoint
from rbee_export.options import TensorRtTarget
from rbee_runtime.artifact import Artifact
from rbee_runtime.errors import ArtifactError
from rbee_service.model_source import model_reference


def write(checkpoint: Path, target: Path, precision: Any = "int8", **hooks: Any) -> None:
    opened = open_checkpoint(checkpoint)
    export(opened, target, Options(precision), digest(opened.files), **hooks)


def content(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4", "gguf"])
def test_the_same_input_gives_the_same_bytes(
    precision: str, tiny_llama: Path, make_gguf: MakeGguf, tmp_path: Path
) -> None:
    checkpoint = make_gguf().path if precision == "gguf" else tiny_llama
    write(checkpoint, tmp_path / "one", precision)
    write(checkpoint, tmp_path / "two", precision)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    files = ["artifact.json", "model.onnx", "model.onnx.data", "tokenizer.json"]
    if precision != "fp32":
        files.insert(1, "model.half-cache.onnx")
    assert sorted(content(tmp_path / "one")) == files
    Artifact.open(tmp_path / "one").verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_sentencepiece_model_serves_as_tokenizer(make_llama: MakeLlama, tmp_path: Path) -> None:
    checkpoint = copy_of(make_llama(vocab_size=520, bos_token_id=1, eos_token_id=2), tmp_path)
    before = digest(open_checkpoint(checkpoint).files)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    (checkpoint / "tokenizer.model").write_bytes(trained_model())
    write(checkpoint, tmp_path / "artifact")
    artifact = Artifact.open(tmp_path / "artifact")
    tokenizer = Tokenizer.from_file(str(artifact.file("tokenizer")))
    ids = tokenizer.encode("the worker").ids
    assert tokenizer.decode(ids) == "the worker"
    assert (artifact.manifest.bos_token_id, artifact.manifest.eos_token_ids) == (1, (2,))
    assert digest(open_checkpoint(checkpoint).files) != before


def test_a_gguf_file_needs_no_suffix(make_gguf: MakeGguf, tmp_path: Path) -> None:
    blob = tmp_path / "sha256-0123"
    blob.write_bytes(make_gguf().path.read_bytes())
    write(make_gguf().path, tmp_path / "named", "gguf")
    write(blob, tmp_path / "unnamed", "gguf")
    named, unnamed = (content(tmp_path / name) for name in ("named", "unnamed"))
    assert named["model.onnx.data"] == unnamed["model.onnx.data"]
    manifest = Artifact.open(tmp_path / "unnamed").manifest
    assert (manifest.source.format, manifest.model_ref) == ("gguf", "file:sha256-0123")
    assert model_reference(blob) == manifest.model_ref


def test_another_process_gives_the_same_bytes(tiny_llama: Path, tmp_path: Path) -> None:
    write(tiny_llama, tmp_path / "here")
    run = [sys.executable, "-m", "rbee_export", "--model", str(tiny_llama), "--no-verify"]
    subprocess.run([*run, "--out", str(tmp_path / "there")], check=True, capture_output=True)
    assert content(tmp_path / "here") == content(tmp_path / "there")


def test_identity_follows_content_and_options() -> None:
    engines = TensorRtTarget(("SM89",))
    keys = [
        identity("int8", Options(), "a"),
        identity("int8", Options(), "b"),
        identity("int4", Options(), "a"),
        identity("optimum", Options(), "a"),
        identity("int8", Options(model_ref="hf:org/name"), "a"),
        identity("int8", Options(target=engines), "a"),
    ]
    assert len(set(keys)) == len(keys)
    assert identity("int8", Options("int8"), "a") == identity("int8", Options("auto"), "a")


def test_the_digest_follows_names_and_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x")
    two.write_bytes(b"y")
    first = digest([one, two])
    assert digest([two, one]) == first
    assert digest([one, two.rename(tmp_path / "zwei")]) != first
    (tmp_path / "zwei").rename(two)
    assert digest([one, two]) == first
    two.write_bytes(b"z")
    assert digest([one, two]) != first
    one.write_bytes(b"y")
    two.write_bytes(b"x")
    assert digest([one, two]) != first


def test_an_artifact_is_replaced(tiny_llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    write(tiny_llama, target, "int8")
    (target / "stray").touch()
    write(tiny_llama, target, "int4")
    assert Artifact.open(target).manifest.precision == "int4"
    assert not (target / "stray").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tiny_llama: Path, tmp_path: Path) -> None:
    write(tiny_llama, tmp_path / "elsewhere" / "old", "fp32")
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "elsewhere" / "old")
    for precision in ("int8", "fp32"):
        write(tiny_llama, link, precision)
        assert link.is_symlink()
        assert Artifact.open(link).manifest.precision == precision
    dangling = tmp_path / "next"
    dangling.symlink_to(tmp_path / "elsewhere" / "new")
    write(tiny_llama, dangling)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "elsewhere", "next"]
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["new", "old"]


def test_an_empty_directory_is_filled(tiny_llama: Path, tmp_path: Path) -> None:
    write(tiny_llama, tmp_path / "a" / "b")
    (tmp_path / "empty").mkdir()
    write(tiny_llama, tmp_path / "empty")
    assert content(tmp_path / "empty") == content(tmp_path / "a" / "b")


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_is_no_artifact_is_left_alone(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    if kind == "directory":
        target.mkdir()
    precious = target / "data" if kind == "directory" else target
    precious.write_text("do not lose")
    with pytest.raises(ExportError, match="exists and is not an artifact; choose another --out"):
        write(tiny_llama, target)
    assert precious.read_text() == "do not lose"
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_an_error_half_way_leaves_the_old_artifact(tiny_llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    write(tiny_llama, target, "int8")
    before = content(target)

    def stop(stage: str, done: int, total: int) -> None:
        assert (stage, done, total) == ("layers", 1, 2)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        write(tiny_llama, target, "int4", progress=stop)
    assert content(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_two_exports_of_one_target_do_not_mix(tiny_llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    inside, go_on = threading.Event(), threading.Event()

    def wait(_stage: str, _done: int, _total: int) -> None:
        inside.set()
        assert go_on.wait(20)

    first = threading.Thread(
        target=write, args=(tiny_llama, target), kwargs={"progress": wait}, daemon=True
    )
    first.start()
    assert inside.wait(20)
    try:
        with pytest.raises(ExportError, match="another export is writing it; wait for that one"):
            write(tiny_llama, target, "int4")
        assert not target.exists()
    finally:
        go_on.set()
        first.join(20)
    assert Artifact.open(target).manifest.precision == "int8"
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


STALLED = """
import signal, sys
from pathlib import Path
from rbee_export import Options, digest, export, open_checkpoint

def stall(_stage, done, _total):
    print(done, flush=True)
    signal.pause()

checkpoint = open_checkpoint(Path(sys.argv[1]))
export(checkpoint, Path(sys.argv[2]), Options("int4"), digest(checkpoint.files), stall)
"""


@contextlib.contextmanager
def stalled_export(checkpoint: Path, target: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has written the first layer and does not go on."""
    command = [sys.executable, "-c", STALLED, str(checkpoint), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "1\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("replacing", [False, True])
def test_a_killed_export_leaves_nothing_that_loads(
    replacing: bool, tiny_llama: Path, tmp_path: Path
) -> None:
    target = tmp_path / "artifact"
    if replacing:
        write(tiny_llama, target, "int8")
    with stalled_export(tiny_llama, target) as process:
        with pytest.raises(ExportError, match="another export is writing it"):
            write(tiny_llama, target)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(20)
    left = [path for path in tmp_path.iterdir() if path != target]
    assert left  # it was killed in the middle
    for path in left:
        with pytest.raises(ArtifactError):
            Artifact.open(path)
    if replacing:
        Artifact.open(target).verify()
    else:
        assert not target.exists()
    write(tiny_llama, target, "int4")
    Artifact.open(target).verify()
    assert Artifact.open(target).manifest.precision == "int4"
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


STALLED_PROGRAM = """
import signal, sys
from rbee_export.cli import main
from rbee_export.stages import Stages

def stall(_self, stage, done, _total):
    if stage == "layers":
        print(done, flush=True)
        signal.pause()

Stages.show = stall
sys.exit(main(["--model", sys.argv[1], "--out", sys.argv[2]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_is_told_to_stop_leaves_nothing(
    number: signal.Signals, tiny_llama: Path, tmp_path: Path
) -> None:
    target = tmp_path / "artifact"
    command = [sys.executable, "-c", STALLED_PROGRAM, str(tiny_llama), str(target)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert said == "rbee-export: interrupted; nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_taken_away_by_a_killed_export_is_put_back(
    tiny_llama: Path, tmp_path: Path
) -> None:
    target = tmp_path / "artifact"
    write(tiny_llama, target, "int8")
    before = content(target)
    target.rename(tmp_path / ".artifact.retired")  # where it is killed between its two renames

    def stop(_stage: str, _done: int, _total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        write(tiny_llama, target, "int4", progress=stop)
    assert content(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_lock_on_a_file_that_is_gone_does_not_count(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export opens the lock's file just before another, ending, removes it."""
    target, lock = tmp_path / "artifact", tmp_path / ".artifact.lock"
    flock, calls = fcntl.flock, itertools.count()

    def ending(file: TextIO, operation: int) -> None:
        flock(file, operation)
        if next(calls) == 0:
            lock.unlink()

    monkeypatch.setattr(fcntl, "flock", ending)

    def check(_stage: str, _done: int, _total: int) -> None:
        with lock.open() as file, pytest.raises(BlockingIOError):
            flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    write(tiny_llama, target, progress=check)
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_progress_counts_layers_and_bytes(tiny_llama: Path, tmp_path: Path) -> None:
    layers: list[tuple[str, int, int]] = []
    write(tiny_llama, tmp_path / "a", progress=lambda *stage: layers.append(stage))
    assert layers == [("layers", 1, 2), ("layers", 2, 2)]
    counted: list[tuple[int, int]] = []
    files = open_checkpoint(tiny_llama).files
    digest(files, lambda done, total: counted.append((done, total)))
    size = sum(file.stat().st_size for file in files)
    assert counted[-1] == (size, size)
    assert counted == sorted(counted)
