"""gpu-check, all of it, over what stands for a GPU; and what becomes of checks that misbehave."""

from __future__ import annotations

import asyncio
import ctypes
import datetime
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from support.gpu_check_on_host import NAME
from support.misbehaving_check import wrong
from support.vllm_stand_in import make_environment

from gpu_check import found, program
from gpu_check.families import FAMILIES
from gpu_check.outcome import Outcome, Status
from gpu_check.plan import CHECKS, OURS, PROVIDER, TORCH, Check
from gpu_check.program import main
from gpu_check.rates import rates
from gpu_check.report import Document
from gpu_check.running import run_all
from gpu_check.targets import targets
from rbee_bench.tables import rewrite
from rbee_export.checkpoint import hf_families

ON_HOST = (sys.executable, "-m", "support.gpu_check_on_host")
MISBEHAVING = (sys.executable, "-m", "support.misbehaving_check")
ALIKE = ("1B fp16", "8B int4", "1B eager", "8B compiled", "8B vLLM")
"""Checks that do nothing which another one does not; importing torch takes seconds."""
BENCH = Path(__file__).parents[2] / "bench"


def check(directory: Path, *arguments: str, child: Any = ON_HOST) -> int:
    return main(["--out", str(directory), *arguments], child=child, missing_gpu=lambda: None)


def written(directory: Path) -> tuple[dict[str, Any], str]:
    (data,) = directory.glob("*.json")
    return json.loads(data.read_text()), data.with_suffix(".md").read_text()


@pytest.mark.timeout(300)
def test_all_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check runs; whether the CPU is a fast GPU is another matter.

    Nobody reads their times here: those of models run side by side, as those of parity do anyway.
    """
    side_by_side = [replace(one, group="models") if "B " in one.name else one for one in CHECKS]
    monkeypatch.setattr(program, "CHECKS", side_by_side)
    monkeypatch.setenv("PATH", str(make_environment(tmp_path / "vllm")), prepend=os.pathsep)
    names = [one.name for one in CHECKS if one.name not in ALIKE]
    code = check(tmp_path, "--only", *names)
    document, table = written(tmp_path)
    day = datetime.date.today().isoformat()
    assert [file.name for file in tmp_path.glob("*.json")] == [f"{day}-gpu-stand-in-9000.json"]
    found = document["gpu-check"]
    ends = {one["name"]: (one["status"], one["why"]) for one in found["checks"]}
    assert list(ends) == names
    engine = ends.pop("parity TensorRT")  # no GPU to build for
    assert engine[0] == "skipped"
    assert set(ends.values()) == {("passed", "")}
    speeds = [(r["model"], r["precision"], r["by"], r["what"]) for r in found["rates"]]
    for model, one in (("8B", "fp16"), ("1B", "int4")):
        assert (model, one, "ours", "decode") in speeds
        assert (model, one, "ours", "prefill of 96") in speeds
    assert ("8B", "fp16", "eager torch", "decode") in speeds
    assert ("8B", "fp16", "eager torch", "prefill of 96") in speeds
    assert ("1B", "fp16", "torch.compile", "decode") in speeds
    assert ("1B", "fp16", "vLLM", "decode") in speeds
    assert ("1B", "fp16", "vLLM", "prefill of 96") in speeds
    assert all(row["of the roofline"] for row in found["rates"] if row["by"] == "ours")
    assert [one["found"] is None for one in found["targets"]] == [False] * 4
    assert code == (0 if all(one["found"] >= one["least"] for one in found["targets"]) else 1)
    assert "| GPU | Stand-In 9000 |" in table
    assert "| 8B | fp16 | ours | decode | 64 |" in table
    assert "not yet run" not in table
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(names) + 2  # a line each as they end, and the files


def gathered(*checks: Check, seconds: float = 60.0) -> dict[str, Outcome]:
    ends: dict[str, Outcome] = {}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def told(outcome: Outcome) -> None:
        ends[outcome.name] = outcome

    asyncio.run(run_all(checks, MISBEHAVING, lambda _: environment, seconds, told))
    return ends


@pytest.mark.parametrize("group", ["", "together"])
def test_a_check_that_fails_takes_no_other_along(group: str) -> None:
    names = ("crash", "die", "hang", "passed")
    limits = {"hang": 2.0}
    ends = gathered(*(wrong(n, limit=limits.get(n, 60.0), least=0.0, group=group) for n in names))
    assert [ends[name].status for name in names] == [*[Status.FAILED] * 3, Status.PASSED]
    assert ends["crash"].why == "its process was ended with code 3: what it said last"
    assert ends["die"].why == "its process was killed by SIGSEGV"
    assert ends["hang"].why == "still running after 2 s"
    assert all(
        dict(end.rows[0]) == {"what": "found in time", "holds": True} for end in ends.values()
    )


def test_what_there_is_no_time_for_is_said() -> None:
    ends = gathered(wrong("passed", least=0.0), wrong("hang", least=100.0), seconds=50.0)
    assert ends["passed"].status is Status.PASSED
    assert (ends["hang"].status, ends["hang"].why) == (Status.SKIPPED, "no time left")


def test_the_time_of_all_limits_each() -> None:
    ends = gathered(wrong("hang", limit=900.0, least=0.0), seconds=1.0)
    assert ends["hang"].why == "still running after 1 s"


def test_a_check_with_nothing_to_find_out_is_skipped(tmp_path: Path) -> None:
    """In the process that the program starts, not in one of the tests'."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "gpu_check.child", "8B vLLM"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    end = json.loads(done.stdout)
    assert (end["end"], end["why"]) == ("skipped", "not installed: no vllm program on the path")


def test_what_all_need_is_asked_for_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says = "import json; print(json.dumps({'end': 'missing', 'why': 'no libcudart here'}))"
    assert check(tmp_path, child=(sys.executable, "-c", says)) == 5
    assert capsys.readouterr().err == "gpu-check: no libcudart here\n"
    assert list(tmp_path.iterdir()) == []


def test_packages_that_are_missing_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found, "missing_modules", lambda modules: {"pydantic"} & set(modules))
    assert check(tmp_path) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "gpu-check: not installed: pydantic (wheel pydantic, annotated-types and typing-inspection)"
    )


def test_without_torch_the_rest_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found, "missing_modules", lambda modules: {"torch"} & set(modules))
    assert check(tmp_path, "--only", "limits", "8B eager") == 0
    document, _ = written(tmp_path)
    ends = {one["name"]: one["why"] for one in document["gpu-check"]["checks"]}
    assert ends == {PROVIDER: "", "limits": "", "8B eager": "not installed: torch (wheel torch)"}
    assert document["gpu-check"]["targets"][2]["found"] is None


def test_vllm_is_left_out_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = make_environment(tmp_path / "vllm")
    (programs / "python3").write_text("#!/bin/sh\necho 'no libcudart' >&2\nexit 3\n")
    monkeypatch.setenv("PATH", os.pathsep.join((str(programs), "/usr/bin", "/bin")))
    assert check(tmp_path / "results", "--only", "1B vLLM") == 0
    (_, end) = written(tmp_path / "results")[0]["gpu-check"]["checks"]
    assert (end["status"], end["why"]) == ("skipped", "vLLM does not work here: no libcudart")


def test_results_that_cannot_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    says = "import json; print(json.dumps({'end': 'passed', 'why': ''}))"
    child = (sys.executable, "-c", says)
    assert check(tmp_path / "file" / "results", "--only", "limits", child=child) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gpu-check: the results cannot be kept: ")


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        (OSError("no such file"), r"no NVIDIA driver \(libcuda.so.1\).*--gpus all"),
        (100, "error 100"),
    ],
)
def test_no_gpu(
    driver: Any, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Driver:
        def __init__(self, name: str) -> None:
            if isinstance(driver, OSError):
                raise driver

        def cuInit(self, flags: int) -> int:
            return int(driver)

    monkeypatch.setattr(ctypes, "CDLL", Driver)
    assert main([]) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gpu-check: ")
    assert re.search(said, line)


def test_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--only", "nothing"], ["--minutes", "0"], ["--minutes", "soon"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_results_come_as_checks_end(tmp_path: Path) -> None:
    document = Document(tmp_path, datetime.date(2030, 1, 2), ["provider", "limits", "1B fp16"])
    document.add(Outcome("provider", Status.PASSED, rows=({"what": "GPU", "is": NAME},)))
    data, table = written(tmp_path)
    assert len(data["gpu-check"]["checks"]) == 1
    assert table.count("not yet run") == 2
    document.add(Outcome("limits", Status.FAILED, "what | broke"))
    assert "| limits | failed | 0.00 | what \\| broke |" in written(tmp_path)[1]
    assert not document.holds
    # Beside them tables can still be written.
    tables = tmp_path / "tables.md"
    tables.write_text("<!-- rbee-bench facts -->\n<!-- end -->\n")
    rewrite(tables, tmp_path)


def timed(batch: int, rate: float, by: str = "ours") -> dict[str, Any]:
    row = {"model": "8B", "precision": "fp16", "by": by, "what": "decode", "batch": batch}
    reads = {"step": batch, "weights": 15_000_000, "cache": 1_000, "operations": 15_000_000}
    return {**row, "rate": rate, **(reads if by == "ours" else {})}


def test_figures_and_what_they_must_reach() -> None:
    limits = (
        {"what": "memory, copied", "unit": "bytes", "a second": 2e9},
        {"what": "memory, read", "unit": "bytes", "a second": 3e9},
        {"what": "matrix product", "unit": "operations", "a second": 1e11},
    )
    outcomes = [
        Outcome("parity fp16", Status.PASSED),
        Outcome("parity int4", Status.SKIPPED, "no time left"),
        Outcome("limits", Status.PASSED, rows=limits),
        Outcome("8B fp16", Status.PASSED, rows=(timed(1, 160.0), timed(64, 2000.0))),
        Outcome("8B eager", Status.PASSED, rows=(timed(1, 40.0, "eager torch"),)),
    ]
    first, many, eager = rates(outcomes)
    assert first["of the roofline"] == pytest.approx(160 * 15_001_000 / 3e9)
    # Reading takes 15,064,000 / 3e9 = 5.02 ms, multiplying 64 * 15,000,000 / 1e11 = 9.6 ms.
    assert many["of the roofline"] == pytest.approx(2000 * 9.6e-3 / 64)
    assert (first["beside eager"], eager["beside eager"]) == (4.0, 1.0)
    assert many["beside eager"] is None  # torch was not timed on so many
    assert [target.met for target in targets(outcomes)] == [True, True, True, True]
    assert [target.met for target in targets(outcomes[:2])] == [True, None, None, None]
    slow = [*outcomes[:3], Outcome("8B fp16", Status.PASSED, rows=(timed(1, 140.0),))]
    assert targets(slow)[1].met is False


ON_CPUS = {
    *("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss"),
    *("qwen3_next", "qwen3_5", "qwen3_5_moe", "lfm2", "lfm2_moe"),
    *("granitemoeshared", "granitemoehybrid"),
}
"""Families that no GPU runs, but for those of Granite 4 that are Granite."""


def test_every_family_is_there() -> None:
    known = {name.removesuffix("_text") for name in hf_families.FAMILIES} - ON_CPUS
    assert {config.family for config in FAMILIES.values()} == known
    assert any(config.windowed_layers for config in FAMILIES.values())
    assert any(config.long_rope_from for config in FAMILIES.values())


def alone(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, check=False
    )


def test_the_program_itself_needs_python_alone() -> None:
    """So that it can say what is missing."""
    code = f"import sys; sys.path[:0] = [{str(BENCH)!r}]; import gpu_check.program"
    done = alone(code, "-I", "-S")
    assert done.returncode == 0, done.stderr


def test_checks_need_no_more_than_they_say() -> None:
    entries = {one.entry.partition(":")[0] for one in CHECKS if one.needs == OURS}
    known = {module.partition(".")[0] for module in (*OURS, "markupsafe", "mpmath")}
    known |= {"annotated_types", "typing_inspection", "typing_extensions", "packaging"}
    code = f"""
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        known = {known!r} | {{"rbee_export", "rbee_runtime", "rbee_bench", "gpu_check"}}
        if top not in known and top not in sys.stdlib_module_names and top[:10] != "_sysconfig":
            raise ModuleNotFoundError(f"nobody brought {{name}}", name=name)
sys.path[:0] = {sys.path!r}
sys.meta_path.insert(0, Finder())
import importlib
for entry in {sorted(entries)!r}:
    importlib.import_module(entry)
"""
    done = alone(code)
    assert done.returncode == 0, done.stderr
    assert {module for one in CHECKS for module in one.needs} == {*OURS, *TORCH}


def test_a_checkout_that_is_not_installed_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    exporting = sys.modules["rbee_export.options"]
    monkeypatch.setattr(exporting, "version", unknown)
    assert exporting._version() == "of a checkout"


def test_libraries_are_found_in_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one/nvidia/cu13/lib", "one/nvidia/cudnn/lib", "two/tensorrt_libs"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "one"), str(tmp_path / "two")])
    ours, torch = (
        found.environment(Check("", "", needs=needs)).get("LD_LIBRARY_PATH", "")
        for needs in (OURS, TORCH)
    )
    folders = [Path(entry).relative_to(tmp_path) for entry in ours.split(os.pathsep)[:3]]
    assert [*map(str, folders)] == [
        "one/nvidia/cu13/lib",
        "one/nvidia/cudnn/lib",
        "two/tensorrt_libs",
    ]
    assert "cu13" not in torch
