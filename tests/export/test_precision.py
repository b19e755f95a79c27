"""``int8`` and ``int4``: the artifact computes what its quantised weights say."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.held import blocks_by_name
from support.makers import MakeArtifact, MakeLlama
from support.native import round_as_onnx_runtime
from support.running import forced_logits, mean_divergence, open_cpu, prefill, relative_error
from support.tiny_llama import (
    load_reference,
    reference_logits,
    with_rounded_products,
    with_weights,
)

from rbee_export import open_checkpoint
from rbee_export.blocks import BlockMatrix
from rbee_export.checkpoint.hf_layout import locate
from rbee_runtime.artifact import Artifact

IDS = np.random.default_rng(9).integers(3, 384, 40).tolist()


def held(checkpoint: Path, artifact: Path) -> dict[str, BlockMatrix]:
    """Return an artifact's matrices by the checkpoint's names for them."""
    opened = open_checkpoint(checkpoint)
    stored = load_file(checkpoint / "model.safetensors")
    names = ["embedding", *([] if opened.config.tied_embedding else ["lm_head"])]
    short = ("q", "k", "v", "o", "gate", "up", "down")
    names += [f"layers.{i}.{part}" for i in range(opened.config.layers) for part in short]
    blocks = blocks_by_name(artifact, {name: opened.tensor(name).shape[0] for name in names})
    return {locate(name, opened.config, stored).name: blocks[name] for name in names}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("bits", [8, 4])
def test_logits_are_those_of_the_quantised_weights(
    bits: Literal[4, 8],
    tied: bool,
    make_llama: MakeLlama,
    make_artifact: MakeArtifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = make_llama(tie_word_embeddings=tied)
    artifact = make_artifact(checkpoint, f"int{bits}")
    fastest = open_cpu(artifact)
    round_as_onnx_runtime(monkeypatch)
    backend = open_cpu(artifact)
    blocks = held(checkpoint, artifact)
    vocabulary = {"model.embed_tokens.weight", "lm_head.weight"}
    assert {matrix.bits for name, matrix in blocks.items() if name in vocabulary} == {8}
    assert {matrix.bits for name, matrix in blocks.items() if name not in vocabulary} == {bits}
    dequantised = {name: matrix.dequantize() for name, matrix in blocks.items()}
    exact = reference_logits(with_weights(load_reference(checkpoint), dequantised), IDS)
    rounded = reference_logits(with_rounded_products(load_reference(checkpoint), blocks), IDS)
    # Where prompts run on a matrix unit, they are closer to the exact ones.
    on_fastest = np.stack([prefill(fastest, IDS[: n + 1]) for n in range(len(IDS))])
    assert relative_error(on_fastest, exact) < 0.08
    for ours in (
        np.stack([prefill(backend, IDS[: n + 1]) for n in range(len(IDS))]),
        forced_logits(backend, IDS, 1),
    ):
        assert relative_error(ours, rounded) < 0.01
        assert relative_error(ours, exact) < 0.08


def test_more_bits_are_closer(tiny_llama: Path, make_artifact: MakeArtifact) -> None:
    theirs = reference_logits(load_reference(tiny_llama), IDS)
    divergence = {
        precision: mean_divergence(
            forced_logits(open_cpu(make_artifact(tiny_llama, precision)), IDS, 1), theirs
        )
        for precision in ("fp32", "int8", "int4")
    }
    assert divergence["fp32"] < 1e-8
    assert divergence["fp32"] < divergence["int8"] < 0.01
    assert divergence["int8"] < divergence["int4"] < 0.5


def test_fewer_bits_are_smaller(tiny_llama: Path, make_artifact: MakeArtifact) -> None:
    sizes = [
        Artifact.open(make_artifact(tiny_llama, precision)).weight_bytes
        for precision in ("fp32", "int8", "int4")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
