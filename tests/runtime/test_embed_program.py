"""``rbee-embed``: a vector for each text, one line when it fails."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.makers import MakeArtifact, MakeEncoder
from support.tiny_encoders import CONTEXT

from rbee_runtime.embed_cli import main
from rbee_runtime.embedder import Embedder
from rbee_runtime.embedding.request import MOST_INPUTS

TEXTS = ["A worker reads", "Zwölf Boxkämpfer"]


@pytest.fixture(autouse=True)
def nothing_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())


@pytest.fixture(scope="module")
def artifact(make_encoder: MakeEncoder, make_embedder: MakeArtifact) -> Path:
    return make_embedder(make_encoder(), "fp32")


@pytest.fixture
def named(artifact: Path, tiny_artifact: Path) -> dict[str, str]:
    return {"ARTIFACT": str(artifact), "LANGUAGE": str(tiny_artifact)}


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


def test_vectors_go_to_standard_output(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Embedder.load(artifact) as embedder:
        expected = embedder.embed(TEXTS)
    code, out, err = run(capsys, *TEXTS, "--model", artifact)
    assert code == 0
    vectors = np.array([json.loads(line) for line in out.splitlines()], np.float32)
    np.testing.assert_array_equal(vectors, expected)
    assert err.startswith("2 texts in ")
    assert err.endswith(" texts/s; vectors of 64\n")


@pytest.mark.parametrize("given", [[], ["-"]])
def test_texts_may_come_from_standard_input_and_vectors_go_to_a_file(
    given: list[str],
    artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(TEXTS) + "\n"))
    file = tmp_path / "vectors"
    code, out, _ = run(capsys, *given, "--model", artifact, "--out", file)
    assert (code, out) == (0, "")
    with Embedder.load(artifact) as embedder:
        np.testing.assert_array_equal(np.load(file), embedder.embed(TEXTS))


def test_a_file_is_written_whole_or_left(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vectors"
    file.write_text("precious")
    code, _, _ = run(capsys, "a", "x " * CONTEXT, "--model", artifact, "--out", file)
    assert code == 2
    assert file.read_text() == "precious"
    code, _, _ = run(capsys, "a", "--model", artifact, "--out", file)
    assert code == 0
    assert len(np.load(file)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]


def test_vectors_may_go_into_a_pipe(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        code, _, _ = run(capsys, "a", "--model", artifact, "--out", f"/dev/fd/{writing}")
        os.close(writing)
        assert code == 0
        assert pipe.read().startswith(b"\x93NUMPY")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_disk_that_is_full(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "a", "--model", artifact, "--out", "/dev/full")
    assert (code, err) == (1, "rbee-embed: /dev/full: No space left on device\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["", "--model", "ARTIFACT"], 2, "input must not be empty"),
        (["a", "x " * CONTEXT, "--model", "ARTIFACT"], 2, "input[1] has 130 tokens, more than"),
        (["a", "--model", "ARTIFACT", "--backend", "abacus"], 2, "'abacus' is not known"),
        (["a", "--model", "gone"], 3, "gone: no such artifact directory"),
        (["a", "--model", "LANGUAGE"], 3, "is a language model: rbee-generate"),
        (["a"], 2, "see rbee-embed --help"),
        (["--model", "ARTIFACT"], 2, "standard input holds none"),
        (["a", "--model", "ARTIFACT", "--out", "gone/x"], 1, "gone/x: No such file"),
    ],
)
def test_failures_take_one_line(
    arguments: list[str],
    code: int,
    message: str,
    named: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    got, out, err = run(capsys, *(named.get(argument, argument) for argument in arguments))
    assert (got, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("rbee-embed: ")
    assert message in err


def test_an_empty_line_is_named(
    artifact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n\nb\n"))
    code, _, err = run(capsys, "--model", artifact)
    assert code == 2
    assert err.startswith("rbee-embed: line 2 of standard input is empty")


def test_vectors_come_before_the_last_text_does(artifact: Path) -> None:
    """Texts that come without end would never be embedded, and so many take all memory."""
    command = [sys.executable, "-m", "rbee_runtime.embed_cli", "--model", artifact]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a\n" * MOST_INPUTS)
        process.stdin.flush()
        vectors = [process.stdout.readline() for _ in range(MOST_INPUTS)]
        process.stdin.write(b"b\n\n")
        process.stdin.close()
        assert process.stdout.read() == b""  # a line that is none, where a text was to be
        assert process.wait() == 2
    assert {len(json.loads(vector)) for vector in vectors} == {64}


def test_a_reader_that_leaves_is_no_failure(artifact: Path) -> None:
    command = [sys.executable, "-m", "rbee_runtime.embed_cli", *["a"] * 200, "--model", artifact]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
