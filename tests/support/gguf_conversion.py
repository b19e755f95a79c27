"""Safetensors checkpoints into GGUF files, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from .gguf_experts import metadata as expert_metadata
from .gguf_experts import stacked, unstacked
from .tiny_tokenizer import tokenizer_metadata

Floats = NDArray[np.float32]

ARCHITECTURES: Mapping[str, str] = {
    "llama": "llama",
    "mistral": "llama",
    "ministral3": "mistral3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
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
}
"""GGUF's name of the architecture, by ``model_type``."""

PAIRED = ("llama", "mistral3", "arcee", "granite", "smollm3", "granitemoe")
"""Architectures whose files hold rotary pairs of q and k next to each other."""

LAYER_NORMS: Mapping[str, str] = {
    "phi2": "layer_norm_eps",
    "command-r": "layer_norm_eps",
    "cohere2": "layer_norm_eps",
    "starcoder2": "norm_epsilon",
    "stablelm": "layer_norm_eps",
    "nemotron": "norm_eps",
}
"""What the configuration calls that of layer norms, by architecture."""

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
    writer = gguf.GGUFWriter(file, architecture)
    chosen_fields = {**metadata(architecture, config), **tokenizer_metadata(), **(fields or {})}
    for key, value in chosen_fields.items():
        _add_field(writer, key, value)
    known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[architecture], config["num_hidden_layers"])
    stands_for: dict[str, Floats] = {}
    for name, weight, parts in stacked(load_file(checkpoint / "model.safetensors")):
        if "vision_tower" in name or "multi_modal_projector" in name:
            continue
        stored = names.get_name(plain_name(name), (".weight", ".bias"))
        assert stored is not None, name
        chosen = "F32" if weight.ndim == 1 or ".ffn_gate_inp" in stored else kind
        if stored in LM_TOP:
            chosen = embedding_kind
        element = gguf.GGMLQuantizationType[(kinds or {}).get(stored, chosen)]
        change, undo = _changes(architecture, name, config)
        raw = _encode(change(weight), element)
        writer.add_tensor(stored, raw, raw_dtype=element)
        values = undo(gguf.dequantize(raw, element).astype(np.float32))
        stands_for |= unstacked(parts, values.reshape(weight.shape), stands_for)
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


def plain_name(name: str) -> str:
    """Return the name a tensor of a text model inside a multimodal one has in a text model."""
    inner = name.removeprefix("model.") if name.startswith("model.language_model.") else name
    plain = inner.removeprefix("language_model.")
    if plain == inner or plain.startswith(("model.", "lm_head.")):
        return plain
    return f"model.{plain}"


def metadata(architecture: str, c: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model's metadata say of its configuration ``c``."""
    heads, hidden = c["num_attention_heads"], c["hidden_size"]
    granite = architecture in ("granite", "granitemoe")
    scaling = c.get("rope_scaling") or {}
    keys: dict[str, Any] = {
        "block_count": c["num_hidden_layers"],
        "context_length": c["max_position_embeddings"],
        "embedding_length": hidden,
        "feed_forward_length": c["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": c["num_key_value_heads"],
    }
    if architecture in LAYER_NORMS:
        keys["attention.layer_norm_epsilon"] = float(c[LAYER_NORMS[architecture]])
    else:
        keys["attention.layer_norm_rms_epsilon"] = float(c["rms_norm_eps"])
    if architecture not in ("phi2", "gemma", "gemma2"):
        keys["rope.freq_base"] = float(c["rope_theta"])
    if architecture in ("phi2", "phi3"):
        keys["rope.dimension_count"] = int(c["partial_rotary_factor"] * hidden) // heads
    elif c.get("head_dim") is not None and not granite:
        keys["attention.key_length"] = keys["attention.value_length"] = c["head_dim"]
    if granite or architecture in ("llama", "mistral3", "smollm3"):
        keys["vocab_size"] = c["vocab_size"]
        keys["rope.dimension_count"] = c.get("head_dim") or hidden // heads
    if scaling.get("rope_type") == "linear":
        keys["rope.scaling.type"] = "linear"
        keys["rope.scaling.factor"] = float(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        keys["rope.scaling.type"] = "yarn"
        keys["rope.scaling.factor"] = float(scaling["factor"])
        keys["rope.scaling.original_context_length"] = scaling["original_max_position_embeddings"]
        if "attention_factor" in scaling:
            keys["rope.scaling.yarn_attn_factor"] = float(scaling["attention_factor"])
        for key in ("beta_fast", "beta_slow"):
            if key in scaling:
                keys[f"rope.scaling.yarn_{key}"] = float(scaling[key])
    if architecture == "mistral3":
        keys["rope.scaling.yarn_log_multiplier"] = float(scaling["mscale_all_dim"])
        keys["attention.temperature_scale"] = float(scaling["llama_4_scaling_beta"])
    if architecture == "phi3":
        original = c["original_max_position_embeddings"]
        keys["rope.scaling.original_context_length"] = original
        keys["attention.sliding_window"] = c["sliding_window"] or 0
        if scaling:
            stretch = c["max_position_embeddings"] / original
            attention = math.sqrt(1 + math.log(stretch) / math.log(original))
            keys["rope.scaling.attn_factor"] = attention
    if architecture in ("chatglm", "glm4", "stablelm", "nemotron"):
        width = c.get("head_dim") or hidden // heads
        keys["rope.dimension_count"] = int(c["partial_rotary_factor"] * width)
    if architecture == "hunyuan-dense":
        width = c["head_dim"]
        keys["rope.freq_base"] *= scaling["alpha"] ** (width / (width - 2))
        keys |= {"rope.scaling.type": "none", "rope.scaling.factor": 1.0}
    if architecture in ("exaone4", "olmo2") and c.get("sliding_window"):
        kinds = c.get("layer_types") or [*["sliding_attention"] * 3, "full_attention"]
        keys["attention.sliding_window"] = c["sliding_window"]
        keys["attention.sliding_window_pattern"] = [k == "sliding_attention" for k in kinds]
    if architecture in ("command-r", "cohere2"):
        keys["logit_scale"] = float(c["logit_scale"])
        keys["rope.scaling.type"] = "none"
    if architecture == "stablelm":
        keys["use_parallel_residual"] = c["use_parallel_residual"]
    if architecture in ("gemma2", "gemma3", "cohere2"):
        keys["attention.sliding_window"] = c["sliding_window"]
    if architecture == "gemma2":
        keys["attn_logit_softcapping"] = c["attn_logit_softcapping"]
        keys["final_logit_softcapping"] = c["final_logit_softcapping"]
    if granite:
        keys["attention.scale"] = float(c["attention_multiplier"])
        keys["embedding_scale"] = float(c["embedding_multiplier"])
        keys["residual_scale"] = float(c["residual_multiplier"])
        keys["logit_scale"] = float(c["logits_scaling"])
    keys |= expert_metadata(architecture, c)
    return {
        "general.type": "model",
        "general.name": "tiny",
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **{f"{architecture}.{key}": value for key, value in keys.items()},
    }


def rope_tensors(architecture: str, c: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    """Return the tensors that scale rotary frequencies, by name."""
    scaling = c.get("rope_scaling") or {}
    if architecture == "phi3" and scaling:
        return {
            "rope_factors_long": scaling["long_factor"],
            "rope_factors_short": scaling["short_factor"],
        }
    if scaling.get("rope_type") == "llama3":
        width = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
        return {"rope_freqs": llama3_divisors(width, c["rope_theta"], scaling)}
    return {}


def llama3_divisors(width: int, theta: float, scaling: Mapping[str, Any]) -> list[float]:
    """Return how much Llama 3's scheme stretches each wavelength."""
    low, high, factor = (scaling[key] for key in ("low_freq_factor", "high_freq_factor", "factor"))
    divisors = []
    for exponent in range(0, width, 2):
        turns = scaling["original_max_position_embeddings"] * theta ** (-exponent / width)
        kept = min(max((turns / (2 * math.pi) - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / (kept + (1 - kept) / factor))
    return divisors


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
