from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.makers import MakeArtifact

from rbee_bench.peers import PeerFault, PeerProcess, Spec
from rbee_runtime import Artifact

PROMPT = [5, 6, 7, 8]


@pytest.fixture
def spec(tiny_llama: Path, make_artifact: MakeArtifact, tmp_path: Path) -> Spec:
    # At a precision at which a prompt read at once gives what its tokens give one by one.
    artifact = make_artifact(tiny_llama, "fp32")
    return Spec("compiled", "ours", artifact, 0, 1, tmp_path)


def test_a_spec_survives_its_line(spec: Spec) -> None:
    line = spec.to_json()
    assert "\n" not in line
    assert Spec.from_json(line) == spec


def test_every_call_is_answered_from_the_other_process(spec: Spec, tmp_path: Path) -> None:
    with PeerProcess(spec) as peer:
        completion = peer.complete(PROMPT, 12)
        assert len(completion) == 12
        assert peer.complete(PROMPT, 12) == completion
        logits = peer.score(PROMPT + completion, tmp_path / "logits")
        timing = peer.decode(PROMPT, 12)
        first, second = peer.prefill(PROMPT), peer.prefill(PROMPT)
    vocab = Artifact.open(spec.model).manifest.shapes.vocab
    assert logits.shape == (len(PROMPT) + 12, vocab)
    # What is scored at the prompt's end and after is what was chosen from.
    assert logits[len(PROMPT) - 1 : -1].argmax(-1).tolist() == completion
    assert np.isfinite(logits).all()
    assert 1 <= timing.tokens <= 11
    assert timing.seconds > 0.0
    assert first.tokens == second.tokens == len(PROMPT)  # nothing was kept of the first


def test_what_cannot_be_opened_says_why_in_one_line(spec: Spec, tmp_path: Path) -> None:
    nothing = Spec("compiled", "ours", tmp_path / "nothing", 0, 1, tmp_path)
    with pytest.raises(PeerFault, match="no such artifact directory") as caught:
        PeerProcess(nothing)
    assert "\n" not in str(caught.value)


def test_a_failed_call_leaves_the_peer_usable(spec: Spec) -> None:
    with PeerProcess(spec) as peer:
        with pytest.raises(PeerFault, match="exceeds the context length"):
            peer.decode(PROMPT, 1_000_000)
        assert len(peer.complete(PROMPT, 2)) == 2


def test_a_peer_that_dies_is_a_fault_not_a_hang(spec: Spec) -> None:
    with PeerProcess(spec) as peer:
        os.kill(peer.process_id, signal.SIGKILL)
        with pytest.raises(PeerFault, match="ended with code -9"):
            peer.complete(PROMPT, 2)


def test_its_process_ends_with_the_block(spec: Spec) -> None:
    with PeerProcess(spec) as peer:
        process = psutil.Process(peer.process_id)
    assert not process.is_running()


def test_a_paused_peer_does_nothing_until_it_is_resumed(spec: Spec) -> None:
    with PeerProcess(spec) as paused, PeerProcess(spec) as busy:
        completion = paused.complete(PROMPT, 12)
        paused.pause()
        process = psutil.Process(paused.process_id)
        while process.status() != psutil.STATUS_STOPPED:
            pass
        before = process.cpu_times()
        assert busy.complete(PROMPT, 12) == completion
        assert process.cpu_times() == before
        paused.resume()
        assert paused.complete(PROMPT, 12) == completion
        paused.pause()
    assert not process.is_running()


def test_an_idle_peer_leaves_the_processor_to_the_others(spec: Spec) -> None:
    with PeerProcess(spec) as idle, PeerProcess(spec) as busy:
        idle.decode(PROMPT, 64)
        watched, began = psutil.Process(idle.process_id), time.monotonic()
        before = watched.cpu_times()
        while time.monotonic() < began + 0.5:
            busy.complete(PROMPT, 64)
        after, elapsed = watched.cpu_times(), time.monotonic() - began
    used = after.user + after.system - before.user - before.system
    assert used < 0.25 * elapsed
