"""GGUF files: their blocks are kept exactly, and mean what llama.cpp's converter meant."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from support.makers import MakeArtifact, MakeGguf, MakeLlama, OpenOnce, TinyGguf
from support.native import round_as_onnx_runtime
from support.running import forced_logits, greedy, open_cpu, prefill, relative_error
from support.tiny_llama import load_reference, reference_logits, with_rounded_products, with_weights

from rbee_export import Options, UnsupportedModel, open_checkpoint
from rbee_export.errors import ExportError
from rbee_export.weights import Weights
from rbee_runtime.artifact import Artifact

BLOCK_KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")
KINDS = (*BLOCK_KINDS, "BF16", "F16", "F32")
MATRICES = {
    "embedding": "model.embed_tokens",
    "lm_head": "lm_head",
    **{
        f"layers.{i}.{ours}": f"model.layers.{i}.{theirs}"
        for i in range(2)
        for ours, theirs in {
            "q": "self_attn.q_proj",
            "k": "self_attn.k_proj",
            "v": "self_attn.v_proj",
            "o": "self_attn.o_proj",
            "gate": "mlp.gate_proj",
            "up": "mlp.up_proj",
            "down": "mlp.down_proj",
        }.items()
    },
}
PROMPT = np.random.default_rng(3).integers(3, 384, 40).tolist()


def assert_same_bits(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_of_every_type_is_exact(kind: str, make_gguf: MakeGguf) -> None:
    file = make_gguf(kind, embedding_kind=kind)
    checkpoint = open_checkpoint(file.path)
    assert checkpoint.quantized == (kind in BLOCK_KINDS)
    for ours, theirs in MATRICES.items():
        tensor = checkpoint.tensor(ours)
        assert tensor.kind == kind
        assert_same_bits(tensor.dense(), file.weights[f"{theirs}.weight"])
        blocks = tensor.blocks()
        assert (blocks is not None) == (kind in BLOCK_KINDS)
        if blocks is not None:
            assert blocks.shape == tensor.shape
            assert_same_bits(blocks.dequantize(), tensor.dense())


def test_an_offset_that_is_rounded_costs_one_rounding(
    make_gguf: MakeGguf,
    make_artifact: MakeArtifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A minimum so small beside its scale that their sum does not fit a float32."""
    round_as_onnx_runtime(monkeypatch)
    file = make_gguf("Q4_1")
    stored = gguf.GGUFReader(file.path)
    tensor = next(t for t in stored.tensors if t.name == "blk.0.ffn_up.weight")
    content = bytearray(file.path.read_bytes())
    at = tensor.data_offset
    content[at : at + 4] = np.array([1.0, 6e-8], np.float16).tobytes()
    path = tmp_path / "tiny-minimum.gguf"
    path.write_bytes(content)
    up = open_checkpoint(path).tensor("layers.0.up")
    blocks = up.blocks()
    assert blocks is not None
    assert np.abs(blocks.dequantize() - up.dense()).max() <= np.spacing(np.float32(8))
    ours = prefill(open_cpu(make_artifact(path, "gguf")), PROMPT)
    assert relative_error(ours, reference_logits(rounding(path, file), PROMPT)[-1]) < 0.01


@pytest.mark.parametrize("kind", ["F64", "I32", "Q8_1", "NVFP4"])
def test_types_that_hold_no_weights_are_named(kind: str, tmp_path: Path) -> None:
    element = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[element]
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    raw = np.zeros((2, 64 // block * size), np.uint8)
    writer.add_tensor("blk.0.attn_q.weight", raw, raw_dtype=element)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(
        UnsupportedModel,
        match=rf"tensor 'blk\.0\.attn_q\.weight' has type {kind}; supported are F32,",
    ):
        open_checkpoint(tmp_path / "model.gguf")


def rounding(path: Path, file: TinyGguf) -> Any:
    """Return the reference for kept blocks: those rounding activations, other weights as floats."""
    checkpoint = open_checkpoint(path)
    dense = {
        f"{theirs}.weight": checkpoint.tensor(ours).dense()
        for ours, theirs in MATRICES.items()
        if f"{theirs}.weight" in file.weights
    }
    blocks = {
        f"{theirs}.weight": blocks
        for ours, theirs in MATRICES.items()
        if f"{theirs}.weight" in file.weights
        and (blocks := checkpoint.tensor(ours).blocks()) is not None
    }
    model = with_weights(load_reference(file.source), dense)
    return with_rounded_products(model, blocks)


BLOCK_NAMES = ("q", "k", "v", "o", "gate", "up", "down")
REAL = (
    "embedding",
    *(f"layers.{i}.{m}" for i in (0, 17, 29) for m in BLOCK_NAMES),
)


@pytest.mark.parametrize("name", REAL)
def test_matrices_of_the_real_model_are_exact(
    name: str, sample_gguf: Path, open_once: OpenOnce
) -> None:
    tensor = open_once(sample_gguf).tensor(name)
    blocks = tensor.blocks()
    assert blocks is not None
    assert_same_bits(blocks.dequantize(), tensor.dense())


def stored_matrices(artifact: Path) -> dict[str, NDArray[np.float32]]:
    """Read back, by their names in the graph, the matrices of an artifact's block products."""
    graph = ir.load(artifact / "model.onnx").graph
    found = {}
    for node in graph:
        if node.op_type != "MatMulNBits" and not node.op_type.endswith("Product"):
            continue
        packed, scales = (value.const_value.numpy() for value in node.inputs[1:3])
        bits = node.attributes["bits"].as_int()
        q = packed.astype(np.int32)
        if bits == 4:
            q = np.stack([q % 16, q // 16], axis=-1).reshape(*q.shape[:2], 32)
        name = node.inputs[1].name.removesuffix(".packed").split(".packed:")[0]
        offsets = graph.initializers.get(f"{name}.offsets")
        d = scales.reshape(*q.shape[:2], 1)
        zero = np.float32(2 ** (bits - 1))
        if offsets is None:
            w = (q.astype(np.float32) - zero) * d
        else:
            w = (q.astype(np.float32) - zero) * d + offsets.const_value.numpy().reshape(d.shape)
        found[name] = w.reshape(len(q), -1)
    return found


@pytest.mark.parametrize("kind", BLOCK_KINDS)
def test_the_artifact_holds_the_file_s_own_blocks(
    kind: str, make_gguf: MakeGguf, make_artifact: MakeArtifact
) -> None:
    file = make_gguf(kind, embedding_kind=kind)
    stored = stored_matrices(make_artifact(file.path, "gguf"))
    names = [name for packed in stored for name in packed.split("+")]
    assert sorted(names) == sorted(set(MATRICES) - {"embedding"})
    for packed, matrix in stored.items():
        parts = [file.weights[f"{MATRICES[name]}.weight"] for name in packed.split("+")]
        assert_same_bits(matrix, np.concatenate(parts))


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


def llama3_divisors(dimensions: int) -> list[float]:
    """What llama.cpp's converter stores for ``LLAMA3``: one divisor per frequency."""
    divisors = []
    for exponent in range(0, dimensions, 2):
        wavelength = 2 * np.pi * 10000.0 ** (exponent / dimensions)
        smooth = (128 / wavelength - 1.0) / (4.0 - 1.0)
        divisors.append(
            1 / ((1 - smooth) / 8.0 + smooth) if 0 < smooth < 1 else 8.0 ** (smooth <= 0)
        )
    return divisors


FILES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "plain": ({}, {}),
    "tied": ({"tie_word_embeddings": True}, {}),
    "every head its own key": ({"num_key_value_heads": 4}, {}),
    "head_dim above hidden / heads": ({"head_dim": 32}, {}),
    "rope_freqs": ({"rope_scaling": LLAMA3}, {"rope_divisors": llama3_divisors(16)}),
    "linear rope": (
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"fields": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}},
    ),
    "F32": ({}, {"kind": "F32", "embedding_kind": "F32"}),
    "F16": ({}, {"kind": "F16", "embedding_kind": "F16"}),
}


@pytest.mark.parametrize("variant", FILES)
def test_dequantised_it_equals_transformers(
    variant: str, make_llama: MakeLlama, make_gguf: MakeGguf, make_artifact: MakeArtifact
) -> None:
    config, overrides = FILES[variant]
    file = make_gguf(checkpoint=make_llama(**config), **overrides)
    model = with_weights(load_reference(file.source), file.weights)
    backend = open_cpu(make_artifact(file.path, "fp32"))
    completion = list(itertools.islice(greedy(backend, PROMPT), 64))
    theirs = reference_logits(model, PROMPT + completion)[len(PROMPT) - 1 :]
    assert completion == theirs[:-1].argmax(-1).tolist()
    np.testing.assert_allclose(prefill(backend, PROMPT), theirs[0], atol=1e-4)


MIXED = {
    "blk.0.attn_k.weight": "Q8_0",
    "blk.0.ffn_up.weight": "Q4_0",
    "blk.1.attn_v.weight": "F16",
    "blk.1.ffn_down.weight": "F32",
}
BLOCK_FILES: Mapping[str, Mapping[str, Any]] = {
    "Q4_0": {"kind": "Q4_0", "embedding_kind": "Q4_0"},
    "Q4_1": {"kind": "Q4_1", "embedding_kind": "Q4_1"},
    "Q5_0": {"kind": "Q5_0", "embedding_kind": "Q5_0"},
    "Q5_1": {"kind": "Q5_1", "embedding_kind": "Q5_1"},
    "Q8_0": {"kind": "Q8_0", "embedding_kind": "Q8_0"},
    "Q4_1 with a Q8_0 embedding": {"kind": "Q4_1", "embedding_kind": "Q8_0"},
    "Q4_0 with a float embedding": {"kind": "Q4_0", "embedding_kind": "F16"},
    "several types": {"kind": "Q4_1", "kinds": MIXED},
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("variant", BLOCK_FILES)
def test_kept_blocks_compute_what_their_dequantised_weights_do(
    *,
    variant: str,
    tied: bool,
    make_llama: MakeLlama,
    make_gguf: MakeGguf,
    make_artifact: MakeArtifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    round_as_onnx_runtime(monkeypatch)
    checkpoint = make_llama(tie_word_embeddings=tied)
    file = make_gguf(checkpoint=checkpoint, **BLOCK_FILES[variant])
    backend = open_cpu(make_artifact(file.path, "gguf"))
    theirs = reference_logits(rounding(file.path, file), PROMPT)
    exact = reference_logits(with_weights(load_reference(checkpoint), file.weights), PROMPT)
    for ours in (
        np.stack([prefill(backend, PROMPT[: n + 1]) for n in range(len(PROMPT))]),
        forced_logits(backend, PROMPT, 1),
    ):
        # The kernel rounds activations to eight bits: that, and no more.
        assert relative_error(ours, theirs) < 0.01
        assert relative_error(ours, exact) < 0.08


def test_quantised_files_keep_their_blocks_by_default(
    make_gguf: MakeGguf, make_artifact: MakeArtifact
) -> None:
    quantised, dense = make_gguf("Q4_0").path, make_gguf("F16", embedding_kind="F16").path
    assert Artifact.open(make_artifact(quantised)).manifest.precision == "gguf"
    assert Artifact.open(make_artifact(dense)).manifest.precision == "int8"
    with pytest.raises(ExportError, match="no quantised blocks for --precision gguf"):
        Options("gguf").resolve(open_checkpoint(dense))


def test_the_manifest_holds_what_the_metadata_say(
    make_gguf: MakeGguf, make_artifact: MakeArtifact
) -> None:
    manifest = Artifact.open(make_artifact(make_gguf("Q4_1").path, "gguf")).manifest
    assert manifest.source.format == "gguf"
    assert manifest.bos_token_id == 1
    assert manifest.eos_token_ids[0] == 2
    assert manifest.shapes.head_dim == 16
    assert manifest.chat_template is not None


def test_a_llama_file_with_an_odd_scaling(make_gguf: MakeGguf) -> None:
    file = make_gguf(fields={"llama.rope.scaling.type": "spiral"}).path
    with pytest.raises(UnsupportedModel, match="rope scaling 'spiral' is not supported"):
        open_checkpoint(file)


def test_odd_columns_are_refused_with_the_way_out(make_llama: MakeLlama, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_llama(intermediate_size=100))
    weights = Weights(checkpoint, "int8")
    with pytest.raises(
        UnsupportedModel, match=r"layers\.0\.down has 100 columns.*--precision fp32"
    ):
        weights.matrix("layers.0.down", 64, 100)
