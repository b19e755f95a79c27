"""What an export says about its own fidelity, and what can be asked of an artifact later."""

from __future__ import annotations

import io
import json
import os
import queue
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.makers import MakeArtifact, MakeGguf, MakeLlama
from support.native import round_as_onnx_runtime
from support.running import forced_logits, mean_divergence, open_cpu
from support.tiny_llama import load_reference, reference_logits

from rbee_export import Options, digest, export, open_checkpoint, stages
from rbee_export.cli import main
from rbee_export.evaluation import artifact_logits
from rbee_export.fidelity import Text, compare, measure
from rbee_export.fidelity import reference_logits as ours
from rbee_export.report import fidelity_table
from rbee_runtime.artifact import Artifact, Fidelity

IDS = np.random.default_rng(5).integers(3, 384, 96).tolist()


def quiet(_stage: str, _done: int, _total: int) -> None:
    pass


def test_the_reference_is_what_transformers_computes(tiny_llama: Path) -> None:
    theirs = reference_logits(load_reference(tiny_llama), IDS)
    np.testing.assert_allclose(
        ours(open_checkpoint(tiny_llama), "fp32", IDS, quiet), theirs, atol=1e-4
    )


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_all_positions_of_a_graph_are_those_of_its_steps(
    precision: str,
    tiny_llama: Path,
    make_artifact: MakeArtifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    artifact = make_artifact(tiny_llama, precision)
    round_as_onnx_runtime(monkeypatch)
    steps = forced_logits(open_cpu(artifact), IDS, 64)
    # Other kernels sum in another order, and an activation at the edge is rounded the other way.
    np.testing.assert_allclose(artifact_logits(Artifact.open(artifact), IDS)[63:], steps, atol=0.1)


@pytest.mark.parametrize(
    ("precision", "atol"),
    # Between parts, fp16 is rounded to that; within one, the CPU works in float32.
    [("fp32", 1e-5), ("fp16", 0.03), ("int8", 0.01), ("gguf", 0.01)],
)
def test_a_graph_run_in_parts_is_the_whole_one(
    precision: str, atol: float, make_gguf: MakeGguf, make_artifact: MakeArtifact
) -> None:
    artifact = Artifact.open(make_artifact(make_gguf("Q4_1").path, precision))
    turns: list[tuple[int, int]] = []

    def turn(done: int, total: int) -> None:
        turns.append((done, total))

    parts = artifact_logits(artifact, IDS, turn, part=1)
    assert [done for done, _ in turns] == list(range(turns[0][1]))
    assert len(turns) > 4 * artifact.manifest.shapes.layers
    np.testing.assert_allclose(parts, artifact_logits(artifact, IDS), atol=atol)


def test_it_is_divergence_agreement_and_perplexity(tiny_llama: Path) -> None:
    reference = reference_logits(load_reference(tiny_llama), IDS)
    noise = np.random.default_rng(1).normal(0, 0.5, reference.shape).astype(np.float32)
    found = compare(Text("a", ""), IDS, reference + noise, reference)
    assert found.divergence == pytest.approx(mean_divergence(reference + noise, reference), 1e-3)
    agree = (reference + noise).argmax(-1) == reference.argmax(-1)
    assert found.agreement == pytest.approx(agree.mean())
    p = np.exp(reference[:-1] - np.logaddexp.reduce(reference[:-1], -1, keepdims=True))
    right = p[np.arange(len(IDS) - 1), IDS[1:]]
    assert found.reference_perplexity == pytest.approx(np.exp(-np.log(right).mean()), 1e-3)


def test_fewer_bits_cost_more(tiny_llama: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_llama)
    content = digest(checkpoint.files)
    text = Text.built_in()
    price = {}
    for precision in ("fp32", "fp16", "bf16", "int8", "int4"):
        manifest = export(checkpoint, tmp_path / precision, Options(precision), content, text=text)
        assert manifest.fidelity is not None
        assert manifest.fidelity == Artifact.open(tmp_path / precision).manifest.fidelity
        price[precision] = manifest.fidelity.divergence
    assert price["fp32"] < price["fp16"] < price["bf16"] < price["int8"] < price["int4"]


def test_an_export_shows_its_price_and_inspect_repeats_it(
    make_gguf: MakeGguf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "artifact"
    assert main(["--model", str(make_gguf("Q4_1").path), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "KL divergence" in said
    assert "built-in, 256 tokens" in said
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "llama: 2 layers, 64 wide, 4 heads over 2" in shown
    assert f"artifact   {out}, " in shown  # on one line, however long
    assert "4-bit, blocks of 32, offsets, exact" in shown
    assert "KL divergence" in shown
    assert main(["inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "artifact.json").read_text())


def test_a_long_export_says_now_and_then_how_far_it_is(
    tiny_llama: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = ["--model", str(tiny_llama), "--precision", "int4", "--no-verify", "--print-path"]
    monkeypatch.setattr(stages, "SILENCE", 3600.0)
    assert main([*flags, "--out", str(tmp_path / "short")]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setattr(stages, "SILENCE", 0.001)
    assert main([*flags, "--out", str(tmp_path / "long")]) == 0
    told = capsys.readouterr()
    *lines, outcome = told.err.splitlines()
    assert outcome.startswith(f"{tmp_path / 'long'}  int4, ")
    assert all(re.fullmatch(r"rbee-export: [a-z]+, \d+%", line) for line in lines)
    assert told.out == f"{tmp_path / 'long'}\n"


def test_a_stage_is_told_for_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    written: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Log(io.StringIO):
        def write(self, text: str) -> int:
            written.put(text)
            return len(text)

    monkeypatch.setattr(stages, "SILENCE", 0.001)
    with stages.Stages(Console(file=Log(), width=80, force_terminal=False)) as shown:
        for reached, said in (((0, 0), "layers"), ((1, 2), "layers, 50%")):
            shown.show("layers", *reached)
            while written.get(timeout=30) != f"rbee-export: {said}\n":
                pass


def test_no_change_is_not_shown_as_a_loss() -> None:
    same = Fidelity(
        text="t",
        tokens=1,
        divergence=0.0,
        agreement=1.0,
        perplexity=9.99999999,
        reference_perplexity=10.0,
    )
    console = Console(file=io.StringIO(), width=100)
    console.print(fidelity_table(same))
    assert "10.00 (+0.00%)" in console.file.getvalue()
    narrow = Console(file=io.StringIO(), width=30)
    narrow.print(fidelity_table(same))
    assert "…" not in narrow.file.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_cannot_be_written(
    tiny_llama: Path, tiny_artifact: Path, tmp_path: Path, unbuffered: str
) -> None:
    """One line, and not that nothing was written where an artifact was."""
    exporting = ["--model", str(tiny_llama), "--out", str(tmp_path / "out"), "--no-verify"]
    for command in (["inspect", str(tiny_artifact)], [*exporting, "--print-path"]):
        with Path("/dev/full").open("wb") as full:
            told = subprocess.run(
                [sys.executable, "-m", "rbee_export", *command],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            )
        assert told.returncode == 3
        *_, last = said = told.stderr.splitlines()
        assert last == "rbee-export: standard output: No space left on device"
        assert len(said) == (1 if command[0] == "inspect" else 2)


def test_what_a_stranger_wrote_is_shown_as_it_is(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No markup, no pictures, nothing that a terminal obeys."""
    artifact = Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))
    file = artifact / "artifact.json"
    manifest = json.loads(file.read_text())
    manifest["source"]["name"] = "[/red] \x1b[31m :smile:"
    manifest["weights"][0] |= {"held": "[bold]x \u202e", "nbytes": 10**400}
    manifest["fidelity"] = {
        "text": "\x1b",
        "tokens": 1,
        "divergence": 1e308,
        "agreement": -1,
        "perplexity": 0,
        "reference_perplexity": 0,
    }
    file.write_text(json.dumps(manifest))
    assert main(["inspect", str(artifact)]) == 0
    shown = capsys.readouterr().out
    assert "[/red] \N{REPLACEMENT CHARACTER}[31m :smile:" in shown
    assert "[bold]x \N{REPLACEMENT CHARACTER}" in shown
    assert "0" * 16 in shown
    assert main(["--model", "hf:a:"]) == 3
    assert capsys.readouterr().err.startswith("rbee-export: hf:a:: not a model")


def test_a_text_of_ones_own(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("A token in, a token out. " * 4, encoding="utf-8")
    out = tmp_path / "artifact"
    arguments = ["--model", str(tiny_llama), "--out", str(out), "--calibration", str(text)]
    assert main(arguments) == 0
    fidelity = Artifact.open(out).manifest.fidelity
    assert fidelity is not None
    assert fidelity.text == "mine.txt"
    assert main(["verify", str(out), "--calibration", str(text)]) == 0
    assert main(["verify", str(out)]) == 3
    assert "measured on mine.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "fewer than two"),
        (b"\xff\xfe", "not UTF-8 text"),
        (None, "mine.txt: cannot be read: No such file or directory\n"),
    ],
)
def test_a_text_that_is_none(
    content: bytes | None,
    said: str,
    tiny_llama: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text, out = tmp_path / "mine.txt", tmp_path / "artifact"
    if content is not None:
        text.write_bytes(content)
    arguments = ["--model", str(tiny_llama), "--out", str(out), "--calibration", str(text)]
    assert main(arguments) == 3
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_verify_measures_again(
    make_llama: MakeLlama, tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "artifact"
    assert main(["--model", str(tiny_llama), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["verify", str(out), "--model", str(tiny_llama)]) == 0
    assert "same top token" in capsys.readouterr().err
    assert main(["verify", str(out), "--model", str(make_llama(rms_norm_eps=0.1))]) == 3
    assert "is not the checkpoint that" in capsys.readouterr().err


def test_verify_finds_damage_and_change(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "artifact"
    assert main(["--model", str(tiny_llama), "--out", str(out)]) == 0
    changed = Path(shutil.copytree(out, tmp_path / "changed"))
    manifest = json.loads((changed / "artifact.json").read_text())
    manifest["fidelity"]["perplexity"] *= 1.1
    (changed / "artifact.json").write_text(json.dumps(manifest))
    assert main(["verify", str(changed)]) == 3
    assert "export the model again" in capsys.readouterr().err
    weights = bytearray((out / "model.onnx.data").read_bytes())
    weights[100] ^= 1
    (out / "model.onnx.data").write_bytes(weights)
    assert main(["verify", str(out)]) == 3
    assert "model.onnx.data is corrupt" in capsys.readouterr().err


def test_an_export_without_it(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "artifact"
    assert main(["--model", str(tiny_llama), "--out", str(out), "--no-verify"]) == 0
    assert Artifact.open(out).manifest.fidelity is None
    assert main(["inspect", str(out)]) == 0
    assert "fidelity: not measured" in capsys.readouterr().out
    assert main(["verify", str(out)]) == 3
    assert "give its checkpoint with --model" in capsys.readouterr().err
    assert main(["verify", str(out), "--model", str(tiny_llama)]) == 0


def test_what_is_measured_is_what_is_served(tiny_llama: Path, make_artifact: MakeArtifact) -> None:
    """The text's predictions, step by step in the runtime, have the divergence told."""
    artifact = Artifact.open(make_artifact(tiny_llama, "int8"))
    text = Text.built_in()
    told = measure(artifact, open_checkpoint(tiny_llama), text, quiet)
    ids = text.ids(artifact)
    theirs = reference_logits(load_reference(tiny_llama), ids)
    steps = forced_logits(open_cpu(artifact.path), ids, 1)[: len(ids)]
    assert told.divergence == pytest.approx(mean_divergence(steps, theirs), rel=0.25)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-verify", "--calibration", "text"],
        ["--max-batch", "4"],
        ["--target", "tensorrt", "--gpu-arch", "89"],
        ["--target", "tensorrt", "--max-len", "0"],
        ["--target", "tensorrt", "--gpu-arch", "SM89,none"],
        ["--target", "tensorrt", "--gpu-arch", "none", "--max-batch", "4"],
    ],
)
def test_arguments_that_contradict(
    arguments: list[str], tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(tiny_llama), *arguments])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
