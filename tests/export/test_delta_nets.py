"""Models with gated DeltaNets: Qwen3.5 beside Qwen3-Next, what is told, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import gguf_conversion
from support.gguf_conversion import save_gguf
from support.makers import MakeArtifact, MakeFamily
from support.refusals import refusal
from support.running import forced_logits, open_cpu
from support.tiny_llama import copy_of
from support.tiny_qwen3_5 import as_qwen3_5

from rbee_export import Options, export, open_checkpoint
from rbee_export.cli import main
from rbee_runtime.artifact import Artifact
from rbee_runtime.errors import ArtifactError

IDS = np.random.default_rng(5).integers(3, 384, 40).tolist()


@pytest.mark.parametrize("family", ["qwen3-next", "qwen3-next-dense"])
def test_qwen3_5_is_qwen3_next_cut_otherwise(
    family: str, make_family: MakeFamily, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    checkpoint = make_family(family)
    other = as_qwen3_5(checkpoint, tmp_path)
    export(open_checkpoint(other), tmp_path / "out", Options("fp32"), "0" * 64)
    kind = "qwen3_5_moe" if family == "qwen3-next" else "qwen3_5"
    assert Artifact.open(tmp_path / "out").manifest.family == kind
    ours = forced_logits(open_cpu(tmp_path / "out"), IDS, 20)
    theirs = forced_logits(open_cpu(make_artifact(checkpoint, "fp32")), IDS, 20)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("family", "architecture", "fields"),
    [
        ("qwen3-next", "qwen35moe", {}),
        # Layers that predict several tokens at once come after all others.
        ("qwen3-next-dense", "qwen3next", {"block_count": 6, "nextn_predict_layers": 2}),
    ],
)
def test_files_of_llama_cpp_say_the_same(
    family: str,
    architecture: str,
    *,
    fields: Mapping[str, int],
    make_family: MakeFamily,
    make_artifact: MakeArtifact,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(gguf_conversion.ARCHITECTURES, "qwen3_next", architecture)  # type: ignore[arg-type]
    checkpoint, file = make_family(family), tmp_path / "model.gguf"
    prefix = "qwen35" if family == "qwen3-next-dense" else architecture
    own = {f"{prefix}.{key}": value for key, value in fields.items()}
    save_gguf(file, checkpoint, "F32", embedding_kind="F32", fields=own)
    export(open_checkpoint(file), tmp_path / "out", Options("fp32"), "0" * 64)
    ours = forced_logits(open_cpu(tmp_path / "out"), IDS, 20)
    theirs = forced_logits(open_cpu(make_artifact(checkpoint, "fp32")), IDS, 20)
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"ssm.group_count": 3}, "group_count, or full_attention_interval, contradict"),
        ({"ssm.group_count": 0}, "qwen35.ssm.group_count is 0; 1 to"),
        ({"ssm.inner_size": 130}, "contradict one another"),
        ({"ssm.inner_size": 0}, "a dimension of its configuration is below 1"),
        ({"ssm.inner_size": 64}, "attn_qkv.weight does not fall into heads of 128 rows"),
        ({"ssm.state_size": None}, "ssm.state_size is missing"),
        ({"ssm.state_size": 32}, "attn_qkv.weight does not fall into heads of 256 rows"),
        ({"ssm.conv_kernel": 2**31}, "ssm.conv_kernel is 2147483648; 1 to 64"),
        ({"full_attention_interval": 1}, "contradict one another"),
        ({"full_attention_interval": 2}, "attn_q.weight is missing"),
        ({"nextn_predict_layers": 4}, "nextn_predict_layers is not some of the layers"),
    ],
)
def test_metadata_that_contradict_themselves(
    fields: Mapping[str, int | None], problem: str, make_family: MakeFamily, tmp_path: Path
) -> None:
    own = {f"qwen35.{key}": value for key, value in fields.items()}
    save_gguf(tmp_path / "model.gguf", make_family("qwen3-next-dense"), "F32", fields=own)
    assert problem in refusal(tmp_path / "model.gguf", tmp_path / "out")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"linear_num_value_heads": 3}, "3 heads of values cannot share 2 of keys"),
        ({"linear_num_key_heads": 0}, "linear_num_key_heads is 0; 1 to"),
        ({"linear_num_value_heads": 10**9}, "linear_num_value_heads is 1000000000; 1 to"),
        ({"linear_value_head_dim": 16}, "in_proj_qkvz.weight has shape [320, 64], which does not"),
        ({"linear_num_key_heads": 4}, "which does not fall into heads of 96 rows"),
        ({"head_dim": 32, "partial_rotary_factor": 0.5}, "layers.3.q has shape [256, 64]"),
        ({"linear_conv_kernel_dim": 1}, "a convolution of one token is not supported"),
        ({"linear_conv_kernel_dim": 5}, "delta_conv has shape [192, 1, 4]"),
        ({"layer_types": ["full_attention"] * 4}, "layer_types has no linear_attention"),
        ({"layer_types": ["linear_attention"] * 4}, "layer_types has no full_attention"),
        ({"layer_types": ["mamba"] * 4}, "layer_types has 'mamba'"),
        ({"layer_types": ["full_attention"]}, "layer_types does not list 4 layers"),
        ({"full_attention_interval": 0}, "full_attention_interval is 0"),
        ({"full_attention_interval": 2}, "self_attn.q_proj.weight is missing"),
        ({"attention_bias": True}, "attention_bias is not supported"),
    ],
)
def test_configurations_that_contradict_themselves(
    changed: Mapping[str, Any], problem: str, make_family: MakeFamily, tmp_path: Path
) -> None:
    model = copy_of(make_family("qwen3-next-dense"), tmp_path)
    config = json.loads((model / "config.json").read_text())
    if "full_attention_interval" in changed:
        del config["layer_types"]
    (model / "config.json").write_text(json.dumps(config | changed))
    assert problem in refusal(model, tmp_path / "out")


AT = "model.layers.0.linear_attn."


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop(AT + "A_log"), "linear_attn.A_log is missing"),
        (lambda t: t.pop(AT + "in_proj_ba.weight"), "in_proj_ba.weight is missing"),
        (
            lambda t: t.update({AT + "in_proj_qkvz.weight": t[AT + "in_proj_qkvz.weight"][:-1]}),
            "in_proj_qkvz.weight has shape [319, 64], which does not fall into heads of 160 rows",
        ),
        (
            lambda t: t.update({AT + "conv1d.weight": t[AT + "conv1d.weight"][:, 0].copy()}),
            "delta_conv has shape [192, 4]",
        ),
    ],
)
def test_tensors_that_contradict_the_configuration(
    change: Callable[[dict[str, Any]], object],
    problem: str,
    make_family: MakeFamily,
    tmp_path: Path,
) -> None:
    model = copy_of(make_family("qwen3-next-dense"), tmp_path)
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors")
    assert problem in refusal(model, tmp_path / "out")


def test_the_manifest_says_what_a_sequence_takes(
    make_family: MakeFamily, make_artifact: MakeArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_artifact(make_family("qwen3-next-dense"), "int8")
    manifest = json.loads((path / "artifact.json").read_text())
    assert manifest["format_version"] == 7
    assert manifest["cache"]["state"] == {
        "layers": [0, 1, 2],
        "channels": 192,
        "taps": 4,
        "heads": 4,
        "key_dim": 16,
        "value_dim": 32,
    }
    cache = Artifact.open(path).manifest.cache
    assert cache.state_bytes == 3 * (3 * 192 + 4 * 16 * 32) * 4
    assert cache.slot_bytes(100, 16) == 100 * 2 * 2 * 64 * 4 + cache.state_bytes
    main(["inspect", str(path)])
    assert "; 31.5 kB a sequence besides" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"layers": [0, 4]}, "state.layers names a layer that is not there"),
        ({"layers": [0, 0]}, "state.layers is not some of the layers"),
        ({"layers": [0, 1, 2, 3]}, "state.layers is not some of the layers"),
        ({"taps": 0}, "cache.state.taps"),
        ({"heads": 0}, "heads, key_dim and value_dim come together"),
    ],
)
def test_a_manifest_that_contradicts_itself(
    changed: Mapping[str, Any],
    problem: str,
    make_family: MakeFamily,
    make_artifact: MakeArtifact,
    tmp_path: Path,
) -> None:
    path = copy_of(make_artifact(make_family("qwen3-next-dense"), "int8"), tmp_path)
    manifest = json.loads((path / "artifact.json").read_text())
    manifest["cache"]["state"] |= changed
    (path / "artifact.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=problem):
        Artifact.open(path)


def test_a_model_without_states_has_none_in_its_manifest(tiny_artifact: Path) -> None:
    manifest = json.loads((tiny_artifact / "artifact.json").read_text())
    assert "state" not in manifest["cache"]
    assert manifest["format_version"] == 6
