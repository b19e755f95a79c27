"""Granite 4, whose layers have state spaces: the forms it comes in, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.gguf_conversion import save_gguf
from support.makers import MakeArtifact, MakeFamily
from support.refusals import refusal
from support.tiny_llama import copy_of

from rbee_export import open_checkpoint
from rbee_runtime.artifact import Artifact

NEWER = {"mamba": "linear_attention", "attention": "full_attention"}


@pytest.mark.parametrize("family", ["granite-4", "granite-4-micro"])
def test_later_versions_name_layers_otherwise(
    family: str, make_family: MakeFamily, tmp_path: Path
) -> None:
    checkpoint = make_family(family)
    later = copy_of(checkpoint, tmp_path)
    config = json.loads((later / "config.json").read_text())
    config["layer_types"] = [NEWER[kind] for kind in config["layer_types"]]
    (later / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(later).config == open_checkpoint(checkpoint).config


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"mamba_n_groups": 2}, "mamba_n_groups other than 1 is not supported"),
        ({"mamba_conv_bias": False}, "mamba_conv_bias other than True is not supported"),
        ({"mamba_proj_bias": True}, "mamba_proj_bias other than False is not supported"),
        ({"mamba_n_heads": 3}, "mamba_n_heads 3 does not divide a width of 128"),
        ({"mamba_n_heads": 0}, "mamba_n_heads is 0; 1 to"),
        ({"mamba_d_state": 8}, "mamba_conv has shape [160, 1, 4]"),
        ({"mamba_d_conv": 3}, "mamba_conv has shape [160, 1, 4]"),
        ({"shared_intermediate_size": 32}, "shared_down has shape [64, 64]"),
        ({"layer_types": ["mamba"] * 4}, "layer_types has no full_attention"),
        ({"layer_types": None}, "layer_types has no full_attention"),
        ({"layer_types": ["mamba", 1, "mamba", "mamba"]}, "layer_types has 1; full_attention"),
    ],
)
def test_configurations_that_are_refused(
    changed: Mapping[str, Any], problem: str, make_family: MakeFamily, tmp_path: Path
) -> None:
    model = copy_of(make_family("granite-4"), tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changed))
    assert problem in refusal(model, tmp_path / "out")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"ssm.group_count": 2}, "ssm.group_count other than 1 is not supported"),
        ({"ssm.inner_size": 127}, "ssm.inner_size and time_step_rank contradict one another"),
        ({"ssm.time_step_rank": 0}, "ssm.time_step_rank is 0; 1 to"),
        ({"ssm.state_size": None}, "ssm.state_size is missing"),
        ({"ssm.conv_kernel": 5}, "mamba_conv has shape [160, 1, 4]"),
        ({"attention.head_count_kv": 2}, "head_count_kv is zero in no layer"),
    ],
)
def test_metadata_that_are_refused(
    fields: Mapping[str, Any], problem: str, make_family: MakeFamily, tmp_path: Path
) -> None:
    own = {f"granitehybrid.{key}": value for key, value in fields.items()}
    save_gguf(tmp_path / "model.gguf", make_family("granite-4-dense"), "F32", fields=own)
    assert problem in refusal(tmp_path / "model.gguf", tmp_path / "out")


def test_the_manifest_says_what_a_sequence_takes(
    make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    cache = Artifact.open(make_artifact(make_family("granite-4-dense"), "fp32")).manifest.cache
    assert cache.whole_layers == (1,)
    assert cache.state_bytes == 3 * (3 * 160 + 4 * 16 * 32) * 4
