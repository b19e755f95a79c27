"""gpt-oss as it is published: 4-bit floats in safetensors and in GGUF, or all of it in bfloat16."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from support.gguf_conversion import save_gguf
from support.makers import MakeArtifact, MakeFamily
from support.running import forced_logits, median_divergence, open_cpu
from support.tiny_llama import copy_of, load_reference, reference_logits, with_weights

from rbee_export import CheckpointError, UnsupportedModel, open_checkpoint
from rbee_runtime.artifact import Artifact

Tensors = dict[str, NDArray[Any]]

IDS = np.random.default_rng(5).integers(3, 384, 90).tolist()
PROMPT = 60
KIND = gguf.GGMLQuantizationType.MXFP4
NAMES = [f"layers.{i}.expert_{part}" for i in range(2) for part in ("gate", "up", "down")]


def in_mxfp4(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return blocks and scales of ``float32[experts, rows, columns]``, as they are published."""
    ggml = gguf.quantize(weight, KIND).reshape(*weight.shape[:2], -1, 17)
    low, high = ggml[..., 1:] & 0x0F, ggml[..., 1:] >> 4
    numbers = np.concatenate([low, high], axis=-1)
    return numbers[..., 0::2] | numbers[..., 1::2] << 4, np.ascontiguousarray(ggml[..., 0])


@pytest.fixture(scope="module")
def published(
    make_family: MakeFamily, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Tensors]:
    """A checkpoint whose experts are 4-bit floats, and what these stand for, by other names."""
    whole = make_family("gpt-oss")
    directory = copy_of(whole, tmp_path_factory.mktemp("gpt-oss") / "published")
    stored, stands_for = load_file(whole / "model.safetensors"), {}
    for name in [name for name in stored if name.endswith(("gate_up_proj", "experts.down_proj"))]:
        weight = np.ascontiguousarray(stored.pop(name).swapaxes(1, 2))
        values = gguf.dequantize(gguf.quantize(weight, KIND), KIND)
        stands_for[name] = np.ascontiguousarray(values.swapaxes(1, 2))
        stored[f"{name}_blocks"], stored[f"{name}_scales"] = in_mxfp4(weight)
    save_file(stored, directory / "model.safetensors", {"format": "pt"})
    settings = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    settings |= {"quantization_config": {"quant_method": "mxfp4"}, "swiglu_limit": 7.0}
    (directory / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory, stands_for


def test_experts_of_4_bit_floats_are_kept_as_they_are(
    published: tuple[Path, Tensors], make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    directory, stands_for = published
    model = with_weights(load_reference(make_family("gpt-oss")), stands_for)
    theirs = reference_logits(model, IDS)[PROMPT - 1 :]
    ours = forced_logits(open_cpu(make_artifact(directory, "fp32")), IDS, PROMPT)
    np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=0)
    artifact = make_artifact(directory, "int8")
    assert median_divergence(forced_logits(open_cpu(artifact), IDS, PROMPT), theirs) < 0.02
    held = {g.name: g for g in Artifact.open(artifact).manifest.weights if g.source == "MXFP4"}
    assert set(held) == {"expert_gate", "expert_up", "expert_down"}
    assert {group.held for group in held.values()} == {"8-bit, blocks of 32, exact"}


def test_files_of_either_kind_hold_the_same_blocks(
    published: tuple[Path, Tensors],
    make_family: MakeFamily,
    make_artifact: MakeArtifact,
    tmp_path: Path,
) -> None:
    kinds = {
        f"blk.{i}.ffn_{part}_exps.weight": KIND.name
        for i in range(2)
        for part in ("gate", "up", "down")
    }
    file = tmp_path / "gpt-oss.gguf"
    weights = save_gguf(file, make_family("gpt-oss"), "Q8_0", kinds=kinds)
    for name, values in published[1].items():
        np.testing.assert_array_equal(weights[name], values)
    theirs, ours = open_checkpoint(published[0]), open_checkpoint(file)
    for name in NAMES:
        one, other = theirs.tensor(name).blocks(), ours.tensor(name).blocks()
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.packed, other.packed)
        np.testing.assert_array_equal(one.scales, other.scales)
        np.testing.assert_array_equal(one.dequantize(), theirs.tensor(name).dense())
    model = with_weights(load_reference(make_family("gpt-oss")), weights)
    logits = forced_logits(open_cpu(make_artifact(file, "gguf")), IDS, PROMPT)
    assert median_divergence(logits, reference_logits(model, IDS)[PROMPT - 1 :]) < 0.02


def test_weights_in_bfloat16(make_family: MakeFamily, make_artifact: MakeArtifact) -> None:
    checkpoint = make_family("gpt-oss", dtype="bfloat16")
    theirs = reference_logits(load_reference(checkpoint), IDS)[PROMPT - 1 :]
    ours = forced_logits(open_cpu(make_artifact(checkpoint, "fp32")), IDS, PROMPT)
    np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=0)


Change = Callable[[Tensors], object]
GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{GATE_UP}_scales"), "tensor .*gate_up_proj_scales is missing"),
        (
            lambda t: t.update({f"{GATE_UP}_scales": t[f"{GATE_UP}_scales"][:, :, 1:].copy()}),
            "do not hold the matrices of 4 experts",
        ),
        (
            lambda t: t.update({f"{GATE_UP}_scales": np.zeros((4, 192, 2), np.float16)}),
            "gate_up_proj_scales is not of bytes",
        ),
        (
            lambda t: t.update({f"{GATE_UP}_bias": np.zeros((3, 192), np.float32)}),
            "does not hold the biases of 4 experts",
        ),
        (lambda t: t.pop("model.layers.0.self_attn.sinks"), "self_attn.sinks is missing"),
    ],
)
def test_damaged_weights_are_refused(
    change: Change, message: str, published: tuple[Path, Tensors], tmp_path: Path
) -> None:
    directory = copy_of(published[0], tmp_path)
    stored = load_file(published[0] / "model.safetensors")
    change(stored)
    save_file(stored, directory / "model.safetensors", {"format": "pt"})
    opened = open_checkpoint(directory)
    with pytest.raises((CheckpointError, UnsupportedModel), match=message):
        [opened.tensor(f"layers.0.{name}") for name in ("expert_gate", "expert_up_bias", "sinks")]


def test_experts_clamped_by_another_number_are_refused(
    published: tuple[Path, Tensors], tmp_path: Path
) -> None:
    directory = copy_of(published[0], tmp_path)
    settings: Mapping[str, Any] = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**settings, "swiglu_limit": 5.0}))
    with pytest.raises(UnsupportedModel, match="swiglu_limit other than 7"):
        open_checkpoint(directory)
