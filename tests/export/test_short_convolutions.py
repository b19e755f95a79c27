"""Models with short convolutions: the forms they come in, what is told, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.gguf_conversion import save_gguf
from support.makers import MakeArtifact, MakeFamily
from support.refusals import refusal
from support.tiny_llama import copy_of

from rbee_export import open_checkpoint
from rbee_runtime.artifact import Artifact


def test_the_first_of_them_have_settings_by_other_names(
    make_family: MakeFamily, tmp_path: Path
) -> None:
    checkpoint = make_family("lfm2")
    first = copy_of(checkpoint, tmp_path)
    config = json.loads((first / "config.json").read_text())
    config["block_ff_dim"] = config.pop("intermediate_size")
    config["theta"] = config.pop("rope_theta")
    config["tie_embedding"] = True
    config["full_attn_idxs"] = [1, 3]
    del config["layer_types"]
    (first / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(first).config == open_checkpoint(checkpoint).config


def test_one_that_also_sees_has_it_within(make_family: MakeFamily, tmp_path: Path) -> None:
    checkpoint = make_family("lfm2")
    seeing = copy_of(checkpoint, tmp_path)
    config = json.loads((seeing / "config.json").read_text())
    outer = {"model_type": "lfm2_vl", "text_config": config}
    (seeing / "config.json").write_text(json.dumps(outer))
    tensors = load_file(seeing / "model.safetensors")
    within = {name.replace("model.", "model.language_model.", 1): t for name, t in tensors.items()}
    save_file(within, seeing / "model.safetensors")
    ours, theirs = open_checkpoint(seeing), open_checkpoint(checkpoint)
    assert ours.config == theirs.config
    for name in ("embedding", "final_norm", "layers.2.conv_filters", "layers.3.o"):
        np.testing.assert_array_equal(ours.tensor(name).dense(), theirs.tensor(name).dense())


ALL = ["conv", "full_attention"]


@pytest.mark.parametrize(
    ("family", "changed", "problem"),
    [
        ("lfm2", {"conv_bias": True}, "conv_bias is not supported"),
        ("lfm2", {"layer_types": ["conv"] * 4}, "layer_types has no full_attention"),
        ("lfm2", {"layer_types": None}, "layer_types has no conv"),
        ("lfm2", {"layer_types": ALL}, "layer_types does not list 4 layers"),
        ("lfm2", {"layer_types": [*ALL, "mamba", "conv"]}, "layer_types has 'mamba'"),
        (
            "lfm2",
            {"layer_types": [*ALL, *ALL[::-1]]},
            "2.self_attn.q_proj.weight is missing",
        ),
        ("lfm2", {"conv_L_cache": 1}, "a convolution of one token is not supported"),
        ("lfm2", {"conv_L_cache": 5}, "conv_filters has shape [64, 1, 3]"),
        ("lfm2", {"block_multiple_of": 0}, "block_multiple_of is 0"),
        ("lfm2", {"block_auto_adjust_ff_dim": False}, "gate has shape [96, 64]"),
        ("lfm2-moe", {"num_dense_layers": 4}, "num_dense_layers is not some of the layers"),
        ("lfm2-moe", {"num_dense_layers": 2}, "layers.1.feed_forward.w1.weight is missing"),
        ("lfm2-moe", {"routed_scaling_factor": 2.5}, "routed_scaling_factor other than 1"),
        ("lfm2-moe", {"use_expert_bias": False}, "use_expert_bias has to be true"),
    ],
)
def test_configurations_that_are_refused(
    family: str,
    changed: Mapping[str, Any],
    problem: str,
    make_family: MakeFamily,
    tmp_path: Path,
) -> None:
    model = copy_of(make_family(family), tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changed))
    assert problem in refusal(model, tmp_path / "out")


HEADS = "attention.head_count_kv"


@pytest.mark.parametrize(
    ("family", "fields", "problem"),
    [
        ("lfm2", {HEADS: 2}, "head_count_kv is zero in no layer"),
        ("lfm2", {HEADS: [0] * 4}, "a dimension of its configuration is below 1"),
        ("lfm2", {HEADS: [0, 2]}, "head_count_kv is not a list of 4 numbers"),
        ("lfm2", {HEADS: [0, 2, 0, 4]}, "head_count_kv differs from layer to layer"),
        ("lfm2", {HEADS: [0, 2, 2, 2]}, "blk.2.attn_q.weight is missing"),
        ("lfm2", {"shortconv.l_cache": None}, "shortconv.l_cache is missing"),
        ("lfm2", {"shortconv.l_cache": 2**31}, "shortconv.l_cache is 2147483648; 1 to 64"),
        ("lfm2-moe", {"expert_gating_func": 1}, "expert_gating_func is not supported"),
        ("lfm2-moe", {"leading_dense_block_count": 4}, "is not some of the layers"),
    ],
)
def test_metadata_that_are_refused(
    family: str,
    fields: Mapping[str, Any],
    problem: str,
    make_family: MakeFamily,
    tmp_path: Path,
) -> None:
    prefix = family.replace("-", "")
    own = {f"{prefix}.{key}": value for key, value in fields.items()}
    save_gguf(tmp_path / "model.gguf", make_family(family), "F32", fields=own)
    assert problem in refusal(tmp_path / "model.gguf", tmp_path / "out")


def test_the_manifest_says_what_a_sequence_takes(
    make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    path = make_artifact(make_family("lfm2"), "int8")
    manifest = json.loads((path / "artifact.json").read_text())
    assert manifest["format_version"] == 7
    assert manifest["cache"]["state"] == {"layers": [0, 2], "channels": 64, "taps": 3}
    assert Artifact.open(path).manifest.cache.state_bytes == 2 * 2 * 64 * 4
