from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.makers import MakeGguf

from rbee_bench.subject import Subject


@pytest.fixture
def gguf(make_gguf: MakeGguf, tmp_path: Path) -> Path:
    return shutil.copy(make_gguf().path, tmp_path / "model.gguf")


def _export(gguf: Path) -> tuple[Path, bool]:
    """Return the artifact's path and whether it had to be made."""
    made = []
    subject = Subject.open(gguf, gguf.parent / "artifacts", 1)
    path = subject.artifact("gguf", lambda *_: made.append(True)).path
    return path, bool(made)


def test_an_artifact_is_made_once(gguf: Path) -> None:
    path, made = _export(gguf)
    assert made
    assert _export(gguf) == (path, False)


def test_an_artifact_of_another_file_of_that_name_is_replaced(
    gguf: Path, make_gguf: MakeGguf
) -> None:
    path, _ = _export(gguf)
    shutil.copy(make_gguf("Q8_0").path, gguf)
    assert _export(gguf) == (path, True)


def test_a_damaged_artifact_is_replaced(gguf: Path) -> None:
    path, _ = _export(gguf)
    (path / "model.onnx.data").write_bytes(b"short")
    assert _export(gguf) == (path, True)


def test_an_artifact_of_an_earlier_exporter_is_replaced(gguf: Path) -> None:
    path, _ = _export(gguf)
    os.utime(path / "artifact.json", (0, 0))
    assert _export(gguf) == (path, True)
