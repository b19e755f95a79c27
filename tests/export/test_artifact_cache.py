"""``rbee-export cache``: what there is, and what goes."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from rbee_export.cli import main
from rbee_runtime.artifact import MANIFEST_NAME
from rbee_runtime.artifact.cache import in_use

DAY = 86400


@pytest.fixture
def cache(tiny_llama: Path, tmp_path: Path) -> Path:
    """A cache of three artifacts, used today, ten and twenty days ago."""
    cache = tmp_path / "cache"
    for age, precision in enumerate(("int8", "fp32", "fp16")):
        flags = ["--precision", precision, "--no-verify"]
        assert main(["--model", str(tiny_llama), "--cache", str(cache), *flags]) == 0
        (made,) = (path for path in cache.iterdir() if precision_of(path) == precision)
        used = time.time() - age * 10 * DAY
        os.utime(made, (used, used))
    return cache


def precision_of(artifact: Path) -> str:
    precision: str = json.loads((artifact / MANIFEST_NAME).read_text())["precision"]
    return precision


def precisions(cache: Path) -> set[str]:
    return {precision_of(path) for path in cache.iterdir()}


def test_it_lists_what_there_is_the_last_used_first(
    cache: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / ("0" * 32)).mkdir()
    (cache / ("0" * 32) / MANIFEST_NAME).touch()
    os.utime(cache / ("0" * 32), (0, 0))
    capsys.readouterr()
    assert main(["cache", str(cache)]) == 0
    header, *rows, summary = capsys.readouterr().out.splitlines()
    assert header.split() == ["size", "last", "used", "source", "precision", "artifact"]
    assert [row.split()[-2] for row in rows[:3]] == ["int8", "fp32", "fp16"]
    assert all(tiny_llama.name in row for row in rows[:3])
    assert "unreadable" in rows[3]
    assert re.fullmatch(rf"4 artifacts, [\d.]+ MB in {re.escape(str(cache))}", summary)


def test_one_that_is_found_again_is_used_again(
    cache: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--precision", "fp16", "--no-verify"]
    assert main(["--model", str(tiny_llama), "--cache", str(cache), *flags]) == 0
    assert main(["cache", str(cache), "--prune", "5d"]) == 0
    assert precisions(cache) == {"int8", "fp16"}
    assert re.search(r"1 artifact, [\d.]+ kB removed from", capsys.readouterr().err)


def test_what_has_not_been_used_for_so_long_goes(cache: Path) -> None:
    assert main(["cache", str(cache), "--prune", "15d"]) == 0
    assert precisions(cache) == {"int8", "fp32"}


def test_the_longest_unused_goes_until_the_rest_is_small_enough(cache: Path) -> None:
    assert main(["cache", str(cache), "--prune", "1T"]) == 0
    assert len(precisions(cache)) == 3
    (large,) = (path for path in cache.iterdir() if precision_of(path) == "fp32")
    os.truncate(large / "model.onnx.data", 3_000_000)
    assert main(["cache", str(cache), "--prune", "3MB"]) == 0
    assert precisions(cache) == {"int8"}


def test_what_is_in_use_stays_and_what_is_no_artifact_too(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (used,) = (path for path in cache.iterdir() if precision_of(path) == "fp32")
    (cache / f".{'0' * 32}.partial").mkdir()  # a killed export's
    shutil.copytree(used, cache / "of my own")
    (cache / ".of my own.partial").mkdir()
    (cache / ("0" * 32)).symlink_to(cache / "of my own")
    mine = {"of my own", ".of my own.partial", "0" * 32}
    capsys.readouterr()
    with in_use(used):
        assert main(["cache", str(cache)]) == 0
        assert capsys.readouterr().out.count(" in use ") == 1
        assert main(["cache", str(cache), "--clear"]) == 0
        assert {path.name for path in cache.iterdir()} == {used.name, *mine}
        told = capsys.readouterr()
        assert re.search(r"2 artifacts, .* kB removed from .*; 1 artifact, .*, in use", told.err)
        assert told.out == ""
    assert main(["cache", str(cache), "--clear"]) == 0
    assert {path.name for path in cache.iterdir()} == mine


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove anything")
def test_what_may_not_be_removed_is_named(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.chmod(0o500)
    try:
        assert main(["cache", str(cache), "--clear"]) == 3
    finally:
        cache.chmod(0o700)
    assert re.search(r"rbee-export: .*: Permission denied\n$", capsys.readouterr().err)


def test_the_cache_is_that_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RBEE_ARTIFACT_CACHE", str(tmp_path / "none"))
    for flags in ([], ["--clear"]):
        assert main(["cache", *flags]) == 0
    told = capsys.readouterr()
    assert told.out == f"0 artifacts in {tmp_path / 'none'}\n"
    assert told.err == f"0 artifacts removed from {tmp_path / 'none'}\n"


@pytest.mark.parametrize("flags", [[], ["--clear"], ["--prune", "1d"]])
@pytest.mark.parametrize("name", ["none", "a-file", "a-file/none", "x" * 300])
def test_a_directory_that_is_not_there(
    tmp_path: Path, name: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a-file").touch()
    directory = str(tmp_path / name)
    with pytest.raises(SystemExit) as caught:
        main(["cache", directory, *flags])
    assert caught.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(
        "rbee-export cache: argument directory: must be a directory that is there, not "
        f"'{re.escape(directory)}'(: [^\n]+)?; see rbee-export cache --help\n",
        told.err,
    )


@pytest.mark.parametrize("limit", ["", "30", "d", "-1d", "1.5G", "20KB", "9999999d", "30d "])
def test_a_limit_that_is_none(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["cache", "--prune", limit])
    assert caught.value.code == 2
    assert "argument --prune" in capsys.readouterr().err
