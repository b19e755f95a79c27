"""Mixtures of experts: what is read of them, what is said of them, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file, save_file
from support.gguf_conversion import save_gguf
from support.makers import MakeArtifact, MakeFamily
from support.running import forced_logits, median_divergence, open_cpu, prefill
from support.tiny_llama import copy_of, load_reference, reference_logits, with_weights

from rbee_export import ExportError, Options, export, open_checkpoint
from rbee_export.cli import main
from rbee_runtime.artifact import Artifact
from rbee_runtime.errors import ArtifactError

IDS = np.random.default_rng(5).integers(3, 384, 40).tolist()
EXPERT = "model.layers.1.mlp.experts.{}.up_proj.weight"

Tensors = dict[str, Any]


def said(model: Path, out: Path, options: Options | None = None) -> str:
    """Return the one line that a model is refused with."""
    with pytest.raises(ExportError) as caught:
        export(open_checkpoint(model), out, options or Options("fp32"), "0" * 64)
    assert not out.exists()
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("family", "changed", "problem"),
    [
        ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok is 5; 1 to 4 are possible"),
        ("mixtral", {"num_experts_per_tok": 0}, "num_experts_per_tok is 0; 1 to 4 are possible"),
        ("mixtral", {"num_local_experts": 0}, "num_local_experts is 0; 1 to 1024 are possible"),
        ("mixtral", {"num_local_experts": 10**9}, "num_local_experts is 1000000000"),
        ("mixtral", {"num_local_experts": None}, "num_local_experts is missing"),
        ("mixtral", {"num_local_experts": 8}, "router has shape [4, 64]"),
        ("mixtral", {"num_local_experts": 3}, "router has shape [4, 64]"),
        ("qwen3-moe", {"moe_intermediate_size": 0}, "a dimension of its configuration is below 1"),
        ("qwen3-moe", {"moe_intermediate_size": 10**9}, "expert_gate has shape [256, 64]"),
        ("qwen3-moe", {"moe_intermediate_size": 64}, "expert_gate has shape [256, 64]"),
        ("qwen3-moe", {"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
        ("qwen3-moe", {"decoder_sparse_step": 2}, "mlp.gate_proj.weight is missing"),
        ("qwen3-moe", {"mlp_only_layers": "all"}, "mlp_only_layers is no list of layers"),
        ("qwen3-moe", {"mlp_only_layers": [0.5]}, "mlp_only_layers is no list of layers"),
        ("qwen2-moe", {"use_sliding_window": True}, "use_sliding_window is not supported"),
        ("qwen2-moe", {"shared_expert_intermediate_size": -1}, "is below 1"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv is not supported"),
        ("granite-moe", {"num_local_experts": 3}, "router has shape [4, 64]"),
    ],
)
def test_configurations_that_contradict_themselves(
    family: str, changed: Mapping[str, Any], problem: str, make_family: MakeFamily, tmp_path: Path
) -> None:
    model = copy_of(make_family(family), tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changed))
    assert problem in said(model, tmp_path / "out")


def cut(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = np.ascontiguousarray(tensors[name][:-1])

    return change


def integers(tensors: Tensors) -> None:
    tensors[EXPERT.format(3)] = tensors[EXPERT.format(3)].astype(np.int8)


FUSED = "model.layers.0.block_sparse_moe.input_linear.weight"


@pytest.mark.parametrize(
    ("family", "change", "problem"),
    [
        ("qwen3-moe", lambda t: t.pop(EXPERT.format(7)), "experts.7.up_proj.weight is missing"),
        ("qwen3-moe", cut(EXPERT.format(2)), "experts.2.up_proj.weight is no matrix of the shape"),
        ("qwen3-moe", integers, "experts.3.up_proj.weight has type I8"),
        ("qwen3-moe", lambda t: t.pop("model.layers.0.mlp.gate.weight"), "gate.weight is missing"),
        (
            "qwen2-moe",
            lambda t: t.pop("model.layers.0.mlp.shared_expert_gate.weight"),
            "shared_expert_gate.weight is missing",
        ),
        ("granite-moe", cut(FUSED), "does not hold the matrices of 4 experts"),
        (
            "granite-moe",
            lambda t: t.update({FUSED: t[FUSED][:, :-2].copy()}),
            "expert_up has shape [376, 64]",
        ),
    ],
)
def test_tensors_that_contradict_the_configuration(
    family: str,
    change: Callable[[Tensors], object],
    problem: str,
    make_family: MakeFamily,
    tmp_path: Path,
) -> None:
    model = copy_of(make_family(family), tmp_path)
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors")
    assert problem in said(model, tmp_path / "out")


@pytest.mark.parametrize(
    ("family", "fields", "problem"),
    [
        ("mixtral", {"llama.expert_used_count": 5}, "llama.expert_used_count is 5; 1 to 4"),
        ("mixtral", {"llama.expert_count": 5}, "router has shape [4, 64]"),
        ("mixtral", {"llama.expert_count": 2**32 - 1}, "llama.expert_count is 4294967295"),
        ("mixtral", {"llama.expert_gating_func": 2}, "expert_gating_func is not supported"),
        ("mixtral", {"llama.expert_weights_scale": 2.5}, "expert_weights_scale is not supported"),
        ("qwen3-moe", {"qwen3moe.expert_count": None}, "qwen3moe.expert_count is missing"),
        ("qwen3-moe", {"qwen3moe.expert_count": 0}, "qwen3moe.expert_count is 0"),
        ("qwen3-moe", {"qwen3moe.expert_feed_forward_length": 64}, "has shape [256, 64]"),
        ("olmoe", {"olmoe.attention.clamp_kqv": 8.0}, "clamp_kqv is not supported"),
        ("qwen3", {"qwen3.expert_count": 4}, "experts in qwen3 are not supported"),
        ("llama", {"llama.expert_count": 4}, "llama.expert_used_count is missing"),
    ],
)
def test_metadata_that_contradict_themselves(
    family: str, fields: Mapping[str, Any], problem: str, make_family: MakeFamily, tmp_path: Path
) -> None:
    file = tmp_path / "model.gguf"
    save_gguf(file, make_family(family), "F32", embedding_kind="F32", fields=fields)
    assert problem in said(file, tmp_path / "out")


def rewritten(file: Path, change: Callable[[str, Any], Mapping[str, Any]]) -> Path:
    """Write a GGUF file again, each tensor's values as what ``change`` makes of them, by name."""
    reader = gguf.GGUFReader(file)
    changed = file.with_name("changed.gguf")
    writer = gguf.GGUFWriter(changed, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, inner)
    for tensor in reader.tensors:
        for name, data in change(tensor.name, tensor.data).items():
            writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return changed


def apart(name: str, data: Any) -> Mapping[str, Any]:
    """As files before April 2024 have them: every expert in a tensor of its own."""
    found = re.fullmatch(r"(blk\.\d+\.ffn_\w+)_exps\.weight", name)
    if found is None:
        return {name: data}
    return {f"{found[1]}.{i}.weight": matrix for i, matrix in enumerate(data)}


def without_a_dimension(name: str, data: Any) -> Mapping[str, Any]:
    return {name: data.reshape(-1, data.shape[-1]) if "ffn_down_exps" in name else data}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (apart, "holds each expert in a tensor of its own, as files before April 2024 do; convert"),
        (without_a_dimension, "ffn_down_exps.weight does not hold the matrices of 8 experts"),
        (lambda name, data: {} if "ffn_up_exps" in name else {name: data}, "is missing"),
        (lambda name, data: {} if "ffn_gate_inp" in name else {name: data}, "is missing"),
    ],
)
def test_files_with_other_tensors(
    change: Callable[[str, Any], Mapping[str, Any]],
    problem: str,
    make_family: MakeFamily,
    tmp_path: Path,
) -> None:
    file = tmp_path / "model.gguf"
    save_gguf(file, make_family("qwen3-moe"), "F32", embedding_kind="F32")
    assert problem in said(rewritten(file, change), tmp_path / "out")


def test_gate_and_up_of_one_tensor(make_family: MakeFamily, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    save_gguf(file, make_family("qwen3-moe"), "Q4_1", kinds=KINDS)
    gates: dict[str, Any] = {}

    def fused(name: str, data: Any) -> Mapping[str, Any]:
        if "ffn_gate_exps" in name:
            gates[name.replace("gate", "up")] = data
            return {}
        if name in gates:
            whole = np.concatenate([gates[name], data], axis=1)
            return {name.replace("ffn_up", "ffn_gate_up"): whole}
        return {name: data}

    for path, out in ((file, "apart"), (rewritten(file, fused), "fused")):
        export(open_checkpoint(path), tmp_path / out, Options("gguf"), "0" * 64)
    weights = [(tmp_path / out / "model.onnx.data").read_bytes() for out in ("apart", "fused")]
    assert weights[0] == weights[1]


KINDS = {
    f"blk.{layer}.ffn_{part}_exps.weight": kind
    for layer in range(2)
    for part, kind in (("gate", "Q4_1"), ("up", "Q4_1"), ("down", "Q5_1"))
}


def test_gate_and_up_of_types_that_do_not_go_together(
    make_family: MakeFamily, tmp_path: Path
) -> None:
    file = tmp_path / "model.gguf"
    kinds = {**KINDS, "blk.1.ffn_up_exps.weight": "Q5_1"}
    save_gguf(file, make_family("qwen3-moe"), "Q4_1", kinds=kinds)
    line = said(file, tmp_path / "out", Options("gguf"))
    assert line == (
        "model.gguf: layers.1.expert_gate, expert_up and expert_down are of types that do not go "
        "together; use --precision int8"
    )
    export(open_checkpoint(file), tmp_path / "out", Options("int8"), "0" * 64)


@pytest.mark.parametrize("shape", [(64,), (1, 64)])
def test_a_router_of_one_output_is_a_vector_or_a_matrix(
    shape: tuple[int, ...], make_family: MakeFamily, tmp_path: Path
) -> None:
    checkpoint, file = make_family("qwen2-moe"), tmp_path / "model.gguf"
    save_gguf(file, checkpoint, "F32", embedding_kind="F32")

    def change(name: str, data: Any) -> Mapping[str, Any]:
        return {name: data.reshape(shape) if "gate_inp_shexp" in name else data}

    changed = rewritten(file, change)
    export(open_checkpoint(changed), tmp_path / "out", Options("fp32"), "0" * 64)
    theirs = reference_logits(load_reference(checkpoint), IDS)[-1]
    ours = prefill(open_cpu(tmp_path / "out"), IDS)
    np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=0)


def test_metadata_say_whether_weights_are_divided_by_their_sum(
    make_family: MakeFamily, tmp_path: Path
) -> None:
    checkpoint, file = make_family("olmoe", norm_topk_prob=True), tmp_path / "model.gguf"
    fields = {"olmoe.expert_weights_norm": True}
    save_gguf(file, checkpoint, "F32", embedding_kind="F32", fields=fields)
    export(open_checkpoint(file), tmp_path / "out", Options("fp32"), "0" * 64)
    theirs = reference_logits(load_reference(checkpoint), IDS)[-1]
    ours = prefill(open_cpu(tmp_path / "out"), IDS)
    np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=0)


def test_experts_that_are_not_quantised_beside_matrices_that_are(
    make_family: MakeFamily, tmp_path: Path
) -> None:
    checkpoint, file = make_family("qwen3-moe"), tmp_path / "model.gguf"
    weights = save_gguf(file, checkpoint, "Q8_0", kinds=dict.fromkeys(KINDS, "F16"))
    export(open_checkpoint(file), tmp_path / "out", Options("gguf"), "0" * 64)
    calls = [node.op_type for node in ir.load(tmp_path / "out" / "model.onnx").graph]
    assert calls.count("GatedSiluDenseExperts") == 2
    ours = forced_logits(open_cpu(tmp_path / "out"), IDS, 20)
    theirs = reference_logits(with_weights(load_reference(checkpoint), weights), IDS)[19:]
    assert median_divergence(ours, theirs) < 0.02


def test_the_manifest_says_what_experts_there_are(
    make_family: MakeFamily,
    make_artifact: MakeArtifact,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make_artifact(make_family("qwen3-moe-mixed"), "int8")
    assert json.loads((path / "artifact.json").read_text())["shapes"]["experts"] == {
        "count": 8,
        "active": 2,
        "intermediate": 32,
        "layers": 1,
    }
    main(["inspect", str(path)])
    assert "experts    8 in 1 of 5 layers, 32 wide; a token gets 2\n" in "".join(
        line.rstrip() + "\n" for line in capsys.readouterr().out.splitlines()
    )


def test_a_model_without_experts_has_none_in_its_manifest(tiny_artifact: Path) -> None:
    manifest = json.loads((tiny_artifact / "artifact.json").read_text())
    assert "experts" not in manifest["shapes"]
    assert Artifact.open(tiny_artifact).manifest.shapes.experts is None


def test_a_manifest_with_more_active_experts_than_there_are(
    make_family: MakeFamily, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    path = copy_of(make_artifact(make_family("qwen3-moe"), "int8"), tmp_path)
    manifest = json.loads((path / "artifact.json").read_text())
    manifest["shapes"]["experts"]["active"] = 9
    (path / "artifact.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="active is more than there are"):
        Artifact.open(path)


def test_layers_without_experts_alone_make_a_plain_model(
    make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    checkpoint = make_family("qwen3-moe-mixed", mlp_only_layers=list(range(5)))
    path = make_artifact(checkpoint, "fp32")
    assert Artifact.open(path).manifest.shapes.experts is None
    theirs = reference_logits(load_reference(checkpoint), IDS)[-1]
    np.testing.assert_allclose(prefill(open_cpu(path), IDS), theirs, atol=2e-4, rtol=0)
