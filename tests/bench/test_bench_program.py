"""The whole program on a small model, with whatever engines are installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from support.makers import MakeGguf

from rbee_bench import batch as batch_module
from rbee_bench import cold as cold_module
from rbee_bench import limits as limits_module
from rbee_bench import prefill as prefill_module
from rbee_bench.cli import main
from rbee_bench.fidelity import PLAIN
from rbee_bench.peers import Kind
from rbee_bench.worker_process import WorkerProcess

EAGER = "eager torch fp32"
ENGINES = {"llama.cpp", "ONNX Runtime GenAI int4", EAGER}
IMPORTED_SOON: tuple[Kind, ...] = ("llama.cpp", "genai", "openvino", "vllm")
"""All but eager torch, which takes seconds to import; ``decode`` has that, too."""
UNTUNED = "ONNX Runtime GenAI int4, untuned"
OPENVINO, VLLM = "OpenVINO GenAI", "vLLM"


class Program:
    """Runs subcommands over one directory of artifacts."""

    def __init__(self, gguf: Path, artifacts: Path) -> None:
        self._common = ["--model", str(gguf), "--artifacts", str(artifacts)]
        self._json = artifacts / "result.json"

    def __call__(self, command: str) -> int:
        return main([*command.split(), *self._common, "--json", str(self._json)])

    def result(self, kind: str) -> dict[str, Any]:
        """Return what the last command measured."""
        document = json.loads(self._json.read_text())
        assert document["command"][:2] == ["rbee-bench", kind]
        assert document["machine"]["cores"] >= 1
        found: dict[str, Any] = document[kind]
        return found


@pytest.fixture(scope="module")
def program(make_gguf: MakeGguf, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(make_gguf().path, tmp_path_factory.mktemp("bench"))


def _labels(result: dict[str, Any]) -> set[str]:
    return {row["label"] for row in result["rows"]} | set(result["skipped"])


def test_parity(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert program("parity --prompts 3 --tokens 8") == 0
    assert program.result("parity")["agreed"] == [8, 8, 8]
    assert "3 of 3 prompts" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["parity", "fidelity"])
def test_what_cannot_be_compared_is_said_first(
    command: str,
    make_gguf: MakeGguf,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main([command, "--model", str(make_gguf().path), "--artifacts", str(tmp_path)]) == 1
    assert capsys.readouterr().err.strip() == (
        f"rbee-bench {command}: what ours is compared with needs torch, which is not installed: "
        "pip install 'onnx-worker-rbee[bench]'"
    )
    assert list(tmp_path.iterdir()) == []


def test_fidelity(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert program("fidelity --tokens 48") == 0
    result = program.result("fidelity")
    assert result["tokens"] == 48
    assert _labels(result) == {"gguf", "int8", "int4", PLAIN} | ENGINES - {EAGER}
    ours = {row["label"]: row for row in result["rows"]}
    assert 0.0 < ours["gguf"]["divergence"] < 0.02 < ours["int4"]["divergence"]
    assert ours["int4"]["divergence"] < ours[PLAIN]["divergence"]
    assert ours["gguf"]["agreement"] > 0.8
    assert "over 48 tokens" in capsys.readouterr().out


def test_decode(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert program("decode --tokens 8 --rounds 1 --context 12 4") == 0
    result = program.result("decode")
    labels = {"int4", "gguf", "int8", UNTUNED, OPENVINO, VLLM} | ENGINES
    assert [part["context"] for part in result["parts"]] == [4, 12]
    for part in result["parts"]:
        assert {row["label"] for row in part["rows"]} | set(result["skipped"]) == labels
        assert len(part["roofs"]) == 1
    assert result["agreement"]["shares"]["gguf"] > 0.8
    for row in result["parts"][0]["rows"]:
        assert len(row["rates"]) == 1
        assert min(row["rates"]) > 0.0
        if row["label"] != OPENVINO:
            assert row["reads"]["weights"] > 0
            assert row["reads"]["position"] > 0
    operations = {row["reads"]["operations"] for row in result["parts"][0]["rows"] if row["reads"]}
    # Whatever the engine, the matrices are the model's; offsets of blocks add a 32nd to ours.
    assert max(operations) < 1.05 * min(operations)
    said = capsys.readouterr().out
    assert "tokens/s" in said
    if shutil.which("vllm") is None:
        assert "vLLM: skipped, not installed: no vllm program on the path" in said
    assert "memory was read at" in said


def test_prefill(
    program: Program,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefill_module, "OTHERS", IMPORTED_SOON)
    report = tmp_path / "report.md"
    assert program(f"prefill --lengths 40 8 --rounds 1 --markdown {report}") == 0
    result = program.result("prefill")
    assert result["lengths"] == [8, 40]
    assert _labels(result) == {"int4", "gguf", OPENVINO, VLLM} | ENGINES - {EAGER}
    ours = [row for row in result["rows"] if row["ours"]]
    assert [(row["label"], row["length"]) for row in ours] == [
        *(("int4", 8), ("int4", 40)),
        *(("gguf", 8), ("gguf", 40)),
    ]
    for row in result["rows"]:
        assert len(row["rates"]) == 1
        assert min(row["rates"]) > 0.0
    assert "one prompt of 40 tokens" in capsys.readouterr().out
    assert "**Prefill, one prompt of 40 tokens**" in report.read_text()


def test_batch(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "OTHERS", IMPORTED_SOON)
    assert program("batch --sequences 2 --tokens 4 --rounds 1 --context 8") == 0
    (part,) = program.result("batch")["parts"]
    alone = {"int4, one at a time", "gguf, one at a time"}
    assert _labels(part) == {"int4", "gguf", OPENVINO, VLLM} | ENGINES - {EAGER} | alone
    assert {row["tokens"] / row["sequences"] for row in part["rows"]} == {4}
    assert "2 prompts of 8 tokens together" in capsys.readouterr().out


def test_arrivals_and_chats(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert program("arrivals --rates burst --requests 3 --rounds 2") == 0
    result = program.result("arrivals")
    assert _labels(result) >= {"int4", "gguf"}
    assert result["requests"] == 6
    ours = {row["label"]: row for row in result["rows"]}
    assert ours["gguf"]["alike"] == 1.0
    assert 0.0 < ours["gguf"]["first"]["p50"] <= ours["gguf"]["whole"]["p50"]
    # The small model's context does not hold every prompt.
    assert all("context_length_exceeded" in fault for fault in ours["gguf"]["faults"])
    assert "6 requests, all at once" in capsys.readouterr().out
    assert program("chats --rounds 1 --chats 2") == 0
    chats = program.result("chats")
    assert _labels(chats) >= {"int4", "gguf"}
    assert "2 chats of 3 turns" in capsys.readouterr().out


def test_cold(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other engines convert for a minute.
    kinds: tuple[Kind, ...] = ("llama.cpp",)
    monkeypatch.setattr(cold_module, "OTHERS", kinds)
    assert program("cold --rounds 1 --convert") == 0
    rows = {row["label"]: row for row in program.result("cold")["rows"]}
    assert rows.keys() >= {"gguf, in process", "gguf, worker", "int4, worker"}
    assert rows["gguf, in process"]["conversion"] > 0.0
    for row in rows.values():
        assert 0.0 < row["seconds"][0] < 60.0
        assert 0 < row["serving_bytes"] <= 1.1 * row["peak_bytes"]
    if "llama.cpp" in rows:
        assert rows["llama.cpp"]["conversion"] is None
    assert "to its first token" in capsys.readouterr().out


def test_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_module, "_TURN_SECONDS", 0.01)
    kept = tmp_path / "limits.json"
    assert main(["limits", "--json", str(kept)]) == 0
    limits = json.loads(kept.read_text())["limits"]
    for name in ("reading", "fp32", "int8"):
        assert len(limits[name]) == 5
        assert min(limits[name]) > 1e8
    assert "GB/s" in capsys.readouterr().out


def test_start(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert program("start --rounds 1") == 0
    result = program.result("start")
    assert 0.0 < result["seconds"][0] < 60.0
    assert result["weights_bytes"] < result["ready_bytes"]
    assert "until ready" in capsys.readouterr().out


def test_streaming(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert program("streaming --tokens 8 --rounds 1") == 0
    rows = program.result("streaming")["rows"]
    assert [row["streams"] for row in rows] == [1, 16]
    assert all(row["without"][0] > 0 and row["under"][0] > 0 for row in rows)
    assert "over HTTP" in capsys.readouterr().out


def test_logprobs(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert program("logprobs --tokens 8 --rounds 1") == 0
    result = program.result("logprobs")
    for rows in (result["engine"], result["worker"]):
        assert [row["streams"] for row in rows] == [1, 16]
        assert all(row["without"][0] > 0 and row["under"][0] > 0 for row in rows)
    assert "logprobs: 5" in capsys.readouterr().out


def test_speculation(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert program("speculation --tokens 12 --rounds 1 --temperature 0") == 0
    rows = program.result("speculation")["rows"]
    assert [row["task"] for row in rows][-1] == "fill a JSON schema"
    assert all(row["without"][0] > 0 and row["under"][0] > 0 for row in rows)
    assert all(0 <= row["accepted"] <= row["drafted"] for row in rows)
    assert rows[-1]["accepted"] > 0
    assert "came true" in capsys.readouterr().out


def test_structured(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert program("structured --tokens 8 --rounds 1") == 0
    result = program.result("structured")
    assert [row["streams"] for row in result["rows"]] == [1, 16]
    assert all(row["without"][0] > 0 and row["under"][0] > 0 for row in result["rows"])
    assert result["alone"]
    assert result["attacked"]
    assert "costly schemas" in capsys.readouterr().out


def test_a_text_that_is_too_short_is_said_in_one_line(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("Too short.")
    assert program(f"fidelity --tokens 500 --text {text}") == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("rbee-bench fidelity: the text has ")
    assert said.endswith("tokens, not 500; give a longer --text")


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("", "COMMAND"),
        ("decode --tokens 1", "--tokens: must be at least 2"),
        ("prefill --lengths 32 0", "--lengths: must be at least 1"),
        ("plot", "RESULT.json"),
        ("gate", "BASE"),
        ("gate main --model /nowhere.gguf", "--model /nowhere.gguf: no such file"),
        ("gate main --prove 0", "--prove: must be at least 1"),
        ("arrivals --rates 1 none", "--rates: invalid"),
        ("arrivals --rates 0", "--rates: must be above 0"),
        ("tables README.md", "DIR"),
        ("start --rounds 0", "--rounds: must be at least 1"),
        ("parity --prompts 21", "--prompts: invalid choice"),
        ("parity --model /nowhere.gguf", "--model /nowhere.gguf: no such file"),
    ],
)
def test_bad_arguments_exit_2_with_one_line(
    command: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(command.split())
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    said = capsys.readouterr().err.strip()
    assert complaint in said
    assert "\n" not in said


def test_told_to_stop_it_leaves_no_worker(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[WorkerProcess] = []

    def until_ready(worker: WorkerProcess, _token: str = "") -> None:
        started.append(worker)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(WorkerProcess, "until_ready", until_ready)
    assert program("start --rounds 1") == 128 + signal.SIGTERM
    (worker,) = started
    assert worker.ended(0) is not None
