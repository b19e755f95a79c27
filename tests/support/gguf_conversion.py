"""Safetensors checkpoints into GGUF files, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from .gguf_delta_nets import Cut
from .gguf_experts import stacked, unstacked
from .gguf_metadata import metadata, rope_tensors
from .tiny_tokenizer import tokenizer_metadata

Floats = NDArray[np.float32]

ARCHITECTURES: Mapping[str, str] = {
    "llama": "llama",
    "mistral": "llama",
    "ministral3": "mistral3",
    "qwen2": "qwen2",
    "qwen2_vl_text": "qwen2vl",
    "qwen2_5_vl_text": "qwen2vl",
    "qwen3": "qwen3",
    "qwen3_vl_text": "qwen3vl",
    "phi": "phi2",
    "phi3": "phi3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "smollm3": "smollm3",
    "granite": "granite",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "exaone4": "exaone4",
    "seed_oss": "seed_oss",
    "arcee": "arcee",
    "ernie4_5": "ernie4_5",
    "glm": "chatglm",
    "glm4": "glm4",
    "hunyuan_v1_dense": "hunyuan-dense",
    "cohere": "command-r",
    "cohere2": "cohere2",
    "starcoder2": "starcoder2",
    "stablelm": "stablelm",
    "nemotron": "nemotron",
    "mixtral": "llama",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "olmoe": "olmoe",
    "granitemoe": "granitemoe",
    "granitemoeshared": "granitemoe",
    "granitemoehybrid": "granitehybrid",
    "qwen3_next": "qwen3next",
    "gpt_oss": "gpt-oss",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2moe",
}
"""GGUF's name of the architecture, by ``model_type``."""

PAIRED = ("llama", "mistral3", "arcee", "granite", "smollm3", "granitemoe", "granitehybrid")
"""Architectures whose files hold rotary pairs of q and k next to each other."""

LM_TOP = ("token_embd.weight", "output.weight")


def save_gguf(
    file: Path,
    checkpoint: Path,
    kind: str = "Q4_1",
    *,
    embedding_kind: str = "Q8_0",
    kinds: Mapping[str, str] | None = None,
    fields: Mapping[str, Any] | None = None,
    rope_divisors: Sequence[float] | None = None,
) -> dict[str, Floats]:
    """Write a safetensors checkpoint as llama.cpp's converter would.

    Args:
        file: The file to write.
        checkpoint: A directory with ``config.json`` and one ``model.safetensors`` in float32.
        kind: Type of the matrices, a name of ``gguf.GGMLQuantizationType``. Matrices of a type
            that the gguf package cannot quantise to get random blocks instead of their values.
        embedding_kind: Type of the embedding and the output projection.
        kinds: Types of single tensors, by their name in the file.
        fields: Metadata to add or replace; ``None`` leaves a key out.
        rope_divisors: Values of a ``rope_freqs.weight`` tensor, instead of those that follow from
            the configuration.

    Returns:
        What the file's weights stand for, by the checkpoint's names for them.
    """
    from safetensors.numpy import load_file

    config = json.loads((checkpoint / "config.json").read_text())
    config |= config.get("text_config", {})
    architecture = ARCHITECTURES[config["model_type"]]
    if (
        architecture == "qwen3next"
        and len(config["mlp_only_layers"]) == config["num_hidden_layers"]
    ):
        # Only Qwen3.5 has none with experts.
        architecture = "qwen35"
        del config["num_experts"]
    if architecture == "granitehybrid" and "mamba" not in config["layer_types"]:
        architecture = "granite"
    cut = Cut(architecture, config)
    writer = gguf.GGUFWriter(file, architecture)
    chosen_fields = {**metadata(architecture, config), **tokenizer_metadata(), **(fields or {})}
    for key, value in chosen_fields.items():
        _add_field(writer, key, value)
    known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[architecture], config["num_hidden_layers"])
    stands_for: dict[str, Floats] = {}
    weights = load_file(checkpoint / "model.safetensors")
    for name, weight, parts in _all_parts(
        weights, cut if "linear_key_head_dim" in config else None
    ):
        if any(part in name for part in ("vision_tower", "visual.", "multi_modal_projector")):
            continue
        stored = names.get_name(plain_name(name), (".weight", ".bias"))
        assert stored is not None, name
        vector = weight.ndim == 1 or stored.endswith(".bias")
        small = (".ffn_gate_inp", ".ssm_conv1d", ".shortconv.conv")
        chosen = "F32" if vector or any(one in stored for one in small) else kind
        if stored in LM_TOP:
            chosen = embedding_kind
        element = gguf.GGMLQuantizationType[(kinds or {}).get(stored, chosen)]
        change, undo = _changes(architecture, name, config)
        raw = _encode(change(weight), element)
        writer.add_tensor(stored, raw, raw_dtype=element)
        values = undo(gguf.dequantize(raw, element).astype(np.float32))
        values = values.reshape(weight.shape)
        if "linear_key_head_dim" in config and len(parts) == 1:
            values = cut.whole(parts[0], values)
        stands_for |= unstacked(parts, values, stands_for)
    cut.together(stands_for)
    extra = rope_tensors(architecture, config)
    if rope_divisors is not None:
        extra["rope_freqs"] = rope_divisors
    for name, values in extra.items():
        writer.add_tensor(f"{name}.weight", np.asarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stands_for


def _all_parts(
    weights: Mapping[str, Floats], cut: Cut | None
) -> Iterator[tuple[str, Floats, tuple[str, ...]]]:
    """Yield every tensor to write: a name of its own, its values, and whose they are."""
    for name, weight, parts in stacked(weights):
        if cut is None or len(parts) > 1:
            yield name, weight, parts
            continue
        for own, values, part in cut.parts(name, weight):
            yield own, values, (part,)


def plain_name(name: str) -> str:
    """Return the name a tensor of a text model inside a multimodal one has in a text model."""
    inner = name.removeprefix("model.") if name.startswith("model.language_model.") else name
    plain = inner.removeprefix("language_model.")
    if plain == inner or plain.startswith(("model.", "lm_head.")):
        return plain
    return f"model.{plain}"


def _add_field(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value is not None:
        writer.add_array(key, value)


Change = Callable[[Floats], Floats]


def _changes(architecture: str, name: str, c: Mapping[str, Any]) -> tuple[Change, Change]:
    """Return what the converter does to the values of a tensor, and how to undo it."""
    if name.endswith(("conv.conv.weight", "mamba.conv1d.weight")):
        return (lambda filters: filters[:, 0], lambda filters: filters)
    if name.endswith("mamba.A_log"):
        return (lambda logs: -np.exp(logs)[:, None], lambda decay: np.log(-decay))
    if name.endswith("mamba.D"):
        return (lambda vector: vector[:, None], lambda column: column)
    if name.endswith("mamba.norm.weight"):
        return (lambda vector: vector[None], lambda row: row)
    offset = architecture == "nemotron" or architecture.startswith("gemma")
    if offset and name.endswith("norm.weight"):
        return (lambda norm: norm + 1, lambda norm: norm - 1)
    heads = {
        "q_proj": c["num_attention_heads"],
        "k_proj": c["num_key_value_heads"],
    }.get(name.split(".")[-2])
    if heads is not None and architecture in PAIRED:
        return (
            lambda matrix: _transposed(matrix, heads, 2, -1),
            lambda matrix: _transposed(matrix, heads, -1, 2),
        )
    return (lambda values: values, lambda values: values)


def _transposed(matrix: Floats, heads: int, outer: int, inner: int) -> Floats:
    """Reorder the rows of each head from outer × inner to inner × outer."""
    cut = matrix.reshape(heads, outer, inner, *matrix.shape[1:])
    return np.ascontiguousarray(cut.swapaxes(1, 2)).reshape(matrix.shape)


RANDOM_BLOCKS: Mapping[str, Mapping[int, float]] = {
    "Q4_K": {0: 3e-4, 2: 7.5 * 3e-4},
    "Q5_K": {0: 1.5e-4, 2: 15.5 * 1.5e-4},
    "Q6_K": {208: 6.5e-5},
}
"""Where a block's float16 numbers are, and what makes its weights some 0.08 in size."""


def _encode(weight: Floats, element: gguf.GGMLQuantizationType) -> NDArray[Any]:
    scales = RANDOM_BLOCKS.get(element.name)
    if scales is None:
        return gguf.quantize(weight, element)
    *outer, columns = weight.shape
    rows = math.prod(outer)
    count, size = gguf.GGML_QUANT_SIZES[element]
    assert columns % count == 0, f"{columns} columns for {element.name}"
    seed = weight.view(np.uint32).sum(dtype=np.uint32)
    raw = np.random.default_rng(int(seed)).integers(
        0, 256, (rows, columns // count, size), np.uint8
    )
    for at, scale in scales.items():
        raw[..., at : at + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return raw.reshape(*outer, -1)
