"""The gate on made-up rounds, and once on two real trees."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rbee_bench import trees as module
from rbee_bench.cli import main
from rbee_bench.gate import (
    LEAST,
    MOST,
    Figure,
    Gate,
    Verdict,
    measure_gate,
)
from rbee_bench.proof import Proof, prove_gate
from rbee_bench.random_checkpoint import ModelShape
from rbee_bench.report_gate import gate_report, proof_report
from rbee_bench.trees import GateFault


def _figure(change: float, noise: float, rounds: int, seed: int = 0, limit: float = 0.05) -> Figure:
    """Return costs that differ by ``change`` under noise of its own on each."""
    random = np.random.default_rng(seed)
    base, this = random.lognormal(0.0, noise, (2, rounds))
    costs = tuple(map(float, base)), tuple(float(cost * (1 + change)) for cost in this)
    return Figure("decode", "seconds a token", limit, *costs)


_UNDECIDED = Figure("decode", "seconds a token", 0.05, (1.0,) * LEAST, (0.9, 1.1) * (LEAST // 2))


def _text(gate: Gate) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(gate_report(gate))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def _proof_text(proof: Proof) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(proof_report(proof))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


@pytest.mark.parametrize("seed", range(10))
def test_ten_per_cent_are_caught_and_none_pass(seed: int) -> None:
    assert _figure(0.10, 0.005, LEAST, seed).verdict is Verdict.FAILED
    assert _figure(0.0, 0.005, LEAST, seed).verdict is Verdict.PASSED
    assert _figure(-0.30, 0.005, LEAST, seed).verdict is Verdict.PASSED


def test_noise_leaves_it_undecided_until_there_are_rounds_enough() -> None:
    assert _UNDECIDED.verdict is Verdict.UNDECIDED
    assert _figure(0.0, 0.02, LEAST - 1).verdict is Verdict.UNDECIDED
    assert _figure(0.0, 0.15, 300).verdict is Verdict.PASSED


def test_noise_hardly_ever_makes_it_wrong() -> None:
    for rounds in (LEAST, MOST):
        same = [_figure(0.0, 0.1, rounds, seed).verdict for seed in range(300)]
        slower = [_figure(0.10, 0.1, rounds, seed).verdict for seed in range(300)]
        assert same.count(Verdict.FAILED) <= 1
        assert slower.count(Verdict.PASSED) <= 1


def test_one_figure_that_failed_fails_them_all() -> None:
    passed, failed = _figure(0.0, 0.01, LEAST), _figure(0.2, 0.01, LEAST)

    def verdict(*figures: Figure) -> Verdict:
        return Gate("main", "0" * 40, figures, 0.0).verdict

    assert verdict(passed, passed) is Verdict.PASSED
    assert verdict(passed, _UNDECIDED) is Verdict.UNDECIDED
    assert verdict(_UNDECIDED, failed, passed) is Verdict.FAILED


def test_the_report_says_by_how_much_and_how_surely() -> None:
    costs = (0.010,) * LEAST, (0.011,) * LEAST
    decode = Figure("decode", "seconds a token", 0.05, *costs)
    memory = Figure("memory", "bytes", 0.1, (2e8,) * LEAST, (2e8,) * LEAST)
    text = _text(Gate("main", "0" * 40, (decode, memory), 0.0))
    assert "This tree beside main, 8 rounds" in text
    assert "100.0 tokens/s │ 90.9 tokens/s │ +10.0% │ +10.0% to +10.0% │     +5% │ failed" in text
    assert "200 MB" in text
    assert "too noisy" not in text
    noisy = Gate("main", "0" * 40, (_UNDECIDED,), 0.4)
    assert "too noisy to say: other programs had 40% of the processor" in _text(noisy)


class _Machine:
    """Stands for two trees: rounds whose noise a test chooses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, effort: tuple[float, float]) -> None:
        self.taken = 0
        self.noise = lambda number: 1.0
        efforts = iter(effort)
        monkeypatch.setattr(module.Trees, "round", self._round)
        monkeypatch.setattr(module, "_export", lambda *_: None)
        monkeypatch.setattr(module, "_effort", lambda *_: dict.fromkeys((1, 8), next(efforts)))

    def _round(self, _number: int) -> tuple[dict[str, float], dict[str, float]]:
        self.taken += 1
        same = dict.fromkeys(("decode", "prefill", "start", "memory"), 1.0)
        return same, {**same, "decode": self.noise(self.taken)}


def test_more_rounds_are_taken_while_it_is_undecided(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = _Machine(monkeypatch, (2000.0, 2000.0))
    # For eight rounds nobody can tell; from then on it is plain.
    machine.noise = lambda number: 1.0 + 0.5 * (-1) ** number if number <= LEAST else 1.0
    seen: list[str] = []
    gate = measure_gate("HEAD", tmp_path, 1, lambda what, *_: seen.append(what))
    assert gate.rounds == machine.taken > LEAST
    assert gate.verdict is Verdict.PASSED
    assert "noisy, more" in seen


def test_a_slower_tree_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _Machine(monkeypatch, (2000.0, 2000.0))
    gate = measure_gate("HEAD", tmp_path, 1, lambda *_: None, 0.1)
    assert gate.verdict is Verdict.FAILED


def test_more_instructions_fail_whatever_the_clock_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _Machine(monkeypatch, (2000.0, 2120.0))
    gate = measure_gate("HEAD", tmp_path, 1, lambda *_: None)
    failed = [figure.name for figure in gate.figures if figure.verdict is Verdict.FAILED]
    assert failed == ["Python, 1 at a time", "Python, 8 at a time"]
    assert gate.verdict is Verdict.FAILED
    assert "2120 instructions a token" in _text(gate)


def test_counting_takes_no_rounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = _Machine(monkeypatch, (2000.0, 2090.0))
    gate = measure_gate("HEAD", tmp_path, 1, lambda *_: None, counts_only=True)
    assert machine.taken == gate.rounds == 0
    assert gate.verdict is Verdict.PASSED
    assert "This tree beside HEAD, counted" in _text(gate)


@pytest.mark.parametrize("noise", [0.01, 0.04, 0.5])
def test_a_proof_never_has_the_gate_wrong(
    noise: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = _Machine(monkeypatch, (2000.0, 2000.0))
    random = np.random.default_rng(3)
    machine.noise = lambda _: float(np.exp(random.normal(0.0, noise)))
    proof = prove_gate("HEAD", tmp_path, 1, lambda *_: None, slowdown=0.1, times=10)
    assert len(proof.unchanged) == len(proof.slowed) == 10
    assert Verdict.FAILED not in proof.unchanged
    assert Verdict.PASSED not in proof.slowed
    assert proof.holds == (noise < 0.1)
    assert ("too noisy to say" in _proof_text(proof)) == (noise > 0.1)
    assert {miss.figure for miss in proof.misses} == (set() if proof.holds else {"decode"})


def test_a_proof_names_the_figures_that_were_undecided(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = _Machine(monkeypatch, (2000.0, 2000.0))
    # The second gate, whose rounds come after the first one's, cannot tell.
    machine.noise = lambda number: 1.0 if number <= LEAST else 1.0 + 0.5 * (-1) ** number
    proof = prove_gate("HEAD", tmp_path, 1, lambda *_: None, slowdown=0.04, times=2)
    assert proof.unchanged == (Verdict.PASSED, Verdict.UNDECIDED)
    # So little slower, the first one passes: not what it must say, and every figure had it say so.
    assert [(miss.gate, miss.tree, miss.figure) for miss in proof.misses] == [
        *((1, "slowed", name) for name in ("decode", "prefill", "start", "memory")),
        *((1, "slowed", f"Python, {batch} at a time") for batch in (1, 8)),
        *((2, "unchanged", "decode"), (2, "slowed", "decode")),
    ]
    doubt = proof.misses[-2]
    assert doubt.verdict is Verdict.UNDECIDED
    assert doubt.low < doubt.limit < doubt.high
    said = f"{doubt.low:+.1%} to {doubt.high:+.1%}, at most +5%"
    assert f"gate 2, unchanged: decode undecided, surely within {said}" in _proof_text(proof)


def test_the_proof_counts_what_passed_and_what_was_caught() -> None:
    passed, failed = Verdict.PASSED, Verdict.FAILED
    proof = Proof("main", 0.1, (passed, passed), (failed, passed), (8, 12), (), 0.0)
    assert not proof.holds
    assert "unchanged passes 2 of 2; 10% slower is caught 1 of 2" in _proof_text(proof)


def test_two_trees_are_exported_run_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    few = module.Turn(prompt=96, tokens=24, decodes=6, prefills=12)
    monkeypatch.setattr(module, "QUICK_TURN", few)
    monkeypatch.setattr(module, "_QUICK", ModelShape(512, 64, 128, heads=4, kv_heads=2, layers=2))
    gate = measure_gate("HEAD", None, 1, lambda *_: None, least=1, most=1)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert gate.commit == head.stdout.strip()
    timed, counted = gate.figures[:4], gate.figures[4:]
    assert [figure.name for figure in timed] == ["decode", "prefill", "start", "memory"]
    for figure in timed:
        (base,), (this,) = figure.base, figure.this
        assert 0.2 < this / base < 5.0
        assert figure.verdict is Verdict.UNDECIDED
    assert "too few rounds" in _text(gate)
    for figure in counted:
        assert 100 < figure.base[0] < 10_000


def test_what_is_no_revision_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "--quick", "no-such-branch"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("rbee-bench gate: ")
    assert "no-such-branch" in said
    assert "no such revision" in said
    assert "\n" not in said


def test_a_base_that_cannot_export_the_model(tmp_path: Path) -> None:
    with pytest.raises(GateFault, match="its export ended with code"):
        measure_gate("HEAD", tmp_path, 1, lambda *_: None)
