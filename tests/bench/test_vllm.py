"""vLLM, in an environment of its own, which a stand-in has."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import psutil
import pytest
from support.makers import MakeGguf
from support.vllm_stand_in import make_environment

from rbee_bench import vllm_program
from rbee_bench.cold import Memory
from rbee_bench.peers import PeerFault, PeerProcess, Spec
from rbee_bench.servers import ServerFault, ServerProcess, vllm_server
from rbee_runtime import Artifact

PROMPT = [5, 6, 7, 8]


@pytest.fixture
def spec(make_gguf: MakeGguf, tmp_path_factory: pytest.TempPathFactory) -> Spec:
    workspace = tmp_path_factory.getbasetemp() / "vllm-workspace"  # torch takes its time
    return Spec("vllm", "vLLM", make_gguf().path, 40, 1, workspace, 2)


def _program(directory: Path, text: str) -> Path:
    file = directory / "vllm"
    file.write_text(text)
    file.chmod(0o755)
    return file


def _on_path(monkeypatch: pytest.MonkeyPatch, *directories: Path) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, (*directories, "/usr/bin", "/bin"))))
    monkeypatch.setattr(sys, "executable", "/nowhere/bin/python")


@pytest.mark.parametrize(
    "text",
    [
        "#!{python}\nimport vllm\n",
        "#!/usr/bin/env python3.99\n",
        "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\nimport vllm\n",
        "#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''\nimport vllm\n",
    ],
)
def test_a_program_says_which_python_runs_it(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python3.99"
    python.touch(0o755)
    program = _program(tmp_path, text.format(python=python))
    link = tmp_path / "on-path" / "vllm"
    link.parent.mkdir()
    link.symlink_to(program)
    _on_path(monkeypatch, link.parent, tmp_path)
    assert vllm_program.interpreter() == python
    assert vllm_program.is_elsewhere(python)


def test_the_environment_that_measures_may_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python3"
    python.touch(0o755)
    _program(tmp_path, f"#!{python}\n")
    _on_path(monkeypatch)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert vllm_program.interpreter() == python
    assert "PYTHONPATH" not in vllm_program.variables(python, 2)


@pytest.mark.parametrize(
    "text", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\necho it's\n", "\x7fELF\n", "", "#!/no/python3\n"]
)
def test_a_program_of_another_kind_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _program(tmp_path, text)
    _on_path(monkeypatch, tmp_path)
    with pytest.raises(LookupError) as caught:
        vllm_program.interpreter()
    assert str(caught.value).startswith(f"{program} does not say in its first line")


def test_what_its_processes_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libtcmalloc.so.4")
    python = tmp_path / "bin" / "python3"
    plain = vllm_program.variables(python, 0)
    assert plain["PYTHONPATH"] == ""  # ours are not its packages
    assert not {"LD_PRELOAD", "OMP_NUM_THREADS"} & plain.keys()
    openmp = tmp_path / "lib" / "libiomp5.so"
    openmp.parent.mkdir()
    openmp.touch()
    found = vllm_program.variables(python, 1)
    assert found["LD_PRELOAD"] == f"{openmp}:libtcmalloc.so.4"
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setattr(vllm_program, "find_library", "lib{}.so.4".format)
    found = vllm_program.variables(python, 1)
    assert found["LD_PRELOAD"] == f"{openmp}:libtcmalloc_minimal.so.4"
    assert found["OMP_NUM_THREADS"] == "1"
    assert int(found["VLLM_CPU_OMP_THREADS_BIND"]) in os.sched_getaffinity(0)


def test_without_it_a_word_is_said(
    spec: Spec, tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on_path(monkeypatch)
    spec = dataclasses.replace(spec, workspace=tmp_path / "workspace")
    with pytest.raises(PeerFault) as caught:
        PeerProcess(spec)
    assert str(caught.value) == "not installed: no vllm program on the path"
    artifact = Artifact.open(tiny_artifact)
    server = vllm_server(spec.model, artifact, spec.workspace, context=64, threads=1, slots=2)
    with pytest.raises(ServerFault, match=r"^not installed: no vllm program on the path$"):
        ServerProcess(server)
    assert not spec.workspace.exists()  # nothing is made for nothing


def test_one_that_fails_says_why_in_one_line(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = make_environment(tmp_path)
    broken = programs / "python3"
    broken.write_text("#!/bin/sh\necho 'several' >&2\necho 'no libcudart here' >&2\nexit 3\n")
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    with pytest.raises(PeerFault) as caught:
        PeerProcess(spec)
    assert str(caught.value) == "its process ended with code 3: no libcudart here"


def test_weights_that_cannot_be_made_are_a_line(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(make_environment(tmp_path)), prepend=os.pathsep)
    nothing = Spec("vllm", "vLLM", tmp_path / "nothing.gguf", 40, 1, tmp_path / "workspace")
    with pytest.raises(PeerFault, match=r"^its weights cannot be made: .*nothing") as caught:
        PeerProcess(nothing)
    assert "\n" not in str(caught.value)


def test_its_engine_runs_in_its_own_environment(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(make_environment(tmp_path)), prepend=os.pathsep)
    with PeerProcess(spec) as peer:
        assert peer.version == "vllm 9.9 on cpu in bfloat16"
        assert peer.complete(PROMPT, 3) == [9, 10, 11]
        assert peer.decode(PROMPT, 12).tokens == 11
        assert peer.prefill(PROMPT).tokens == 4
        assert peer.batch([PROMPT, PROMPT], 5).tokens == 10
        with pytest.raises(PeerFault, match="longer than 40"):
            peer.complete(PROMPT, 40)
        with pytest.raises(PeerFault, match="it gives no logits"):
            peer.score(PROMPT, tmp_path / "logits")
        reads = peer.reads()
        assert reads is not None
        assert reads.arithmetic is None
        dense = Spec("eager", "eager", spec.model, 40, 1, spec.workspace)
        with PeerProcess(dense) as eager:
            whole = eager.reads()
            # Of the commands that measure these, torch is in the process of one alone.
            assert eager.prefill(PROMPT).tokens == 4
            assert eager.batch([PROMPT, PROMPT], 5).tokens == 10
    assert whole is not None
    assert (reads.weights, reads.position) == (whole.weights // 2, whole.position // 2)
    assert reads.operations == whole.operations


def test_its_server_ends_with_all_that_it_started(
    spec: Spec, tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(make_environment(tmp_path)), prepend=os.pathsep)
    artifact = Artifact.open(tiny_artifact)
    server = vllm_server(spec.model, artifact, spec.workspace, context=64, threads=1, slots=2)
    with ServerProcess(server) as process:
        first = psutil.Process(process.process_id)
        (started,) = first.children()
        alone = first.memory_full_info().pss
        both = Memory.of(process.process_id)
        assert process.seconds > 0.0
        process.settle()
    assert 0 < alone < both.serving <= both.peak
    for one in (first, started):
        assert not one.is_running() or one.status() == psutil.STATUS_ZOMBIE
