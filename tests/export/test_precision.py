"""``int8`` and ``int4``: the artifact computes what its quantised weights say."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.makers import MakeArtifact, MakeLlama
from support.running import forced_logits, mean_divergence, open_cpu, prefill, relative_error
from support.tiny_llama import (
    load_reference,
    reference_logits,
    with_rounded_products,
    with_weights,
)

from rbee_export.blocks import BlockMatrix, quantize
from rbee_runtime.artifact import Artifact

IDS = np.random.default_rng(9).integers(3, 384, 40).tolist()


def quantised(checkpoint: Path, bits: Literal[4, 8]) -> dict[str, BlockMatrix]:
    """Quantise every matrix: the vocabulary's two always to 8 bits."""
    return {
        name: quantize(weight, 8 if name.startswith(("lm_head", "model.embed")) else bits)
        for name, weight in load_file(checkpoint / "model.safetensors").items()
        if weight.ndim == 2
    }


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("bits", [8, 4])
def test_logits_are_those_of_the_quantised_weights(
    bits: Literal[4, 8], tied: bool, make_llama: MakeLlama, make_artifact: MakeArtifact
) -> None:
    checkpoint = make_llama(tie_word_embeddings=tied)
    backend = open_cpu(make_artifact(checkpoint, f"int{bits}"))
    blocks = quantised(checkpoint, bits)
    dequantised = {name: matrix.dequantize() for name, matrix in blocks.items()}
    exact = reference_logits(with_weights(load_reference(checkpoint), dequantised), IDS)
    rounded = reference_logits(with_rounded_products(load_reference(checkpoint), blocks), IDS)
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
