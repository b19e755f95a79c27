"""Nomic's encoder of random weights, and what its published definition makes of texts.

The model comes with code of its own, so there is none in transformers to compare with: this is the
definition in its paper (Nussbaum et al. 2024) and its settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from .tiny_encoders import CONTEXT, VOCAB, save_modules, save_tokenizer, write_json

NOMIC: Mapping[str, Any] = {
    "model_type": "nomic_bert",
    "architectures": ["NomicBertModel"],
    "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
    "activation_function": "swiglu",
    "causal": False,
    "layer_norm_epsilon": 1e-12,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "n_embd": 64,
    "n_head": 4,
    "n_inner": 96,
    "n_layer": 3,
    "n_positions": CONTEXT,
    "pad_vocab_size_multiple": 64,
    "parallel_block": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "max_trained_positions": 64,
    "type_vocab_size": 2,
    "use_rms_norm": False,
    # Rows of the table are made a multiple of 64.
    "vocab_size": VOCAB - 14,
}


def save_nomic(directory: Path, **changed: Any) -> Path:
    """Save random weights, a tokenizer and the files of sentence-transformers.

    Args:
        directory: Where to.
        changed: Settings that differ from those of a small model.
    """
    directory.mkdir(exist_ok=True)
    settings = {**NOMIC, **changed}
    write_json(directory / "config.json", settings)
    save_tokenizer(directory, "bert")
    save_modules(
        directory, ("Transformer", "Pooling", "Normalize"), {"pooling_mode_mean_tokens": True}
    )
    save_file(_weights(settings), directory / "model.safetensors")
    return directory


def _weights(settings: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    draw = np.random.default_rng(7)
    hidden, inner = settings["n_embd"], settings["n_inner"]

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return draw.standard_normal((rows, columns), np.float32) * np.float32(0.2)

    found = {
        "embeddings.word_embeddings.weight": matrix(VOCAB, hidden),
        "embeddings.token_type_embeddings.weight": matrix(2, hidden),
    }
    norms = ["emb_ln"]
    for i in range(settings["n_layer"]):
        at = f"encoder.layers.{i}."
        shapes = {
            "attn.Wqkv": (3 * hidden, hidden),
            "attn.out_proj": (hidden, hidden),
            "mlp.fc11": (inner, hidden),
            "mlp.fc12": (inner, hidden),
            "mlp.fc2": (hidden, inner),
        }
        for name, shape in shapes.items():
            found[f"{at}{name}.weight"] = matrix(*shape)
            biased = settings["qkv_proj_bias" if name.startswith("attn") else "mlp_fc1_bias"]
            if biased:
                found[f"{at}{name}.bias"] = matrix(1, shape[0])[0]
        norms += [f"{at}norm1", f"{at}norm2"]
    for name in norms:
        found[f"{name}.weight"] = draw.uniform(0.5, 1.5, hidden).astype(np.float32)
        found[f"{name}.bias"] = draw.uniform(-0.5, 0.5, hidden).astype(np.float32)
    return found


def nomic_states(checkpoint: Path, text: Sequence[int]) -> NDArray[np.float32]:
    """Return the last hidden states of a text, ``float32[len(text), hidden]``."""
    import json

    import torch
    from torch.nn import functional

    settings = json.loads((checkpoint / "config.json").read_text())
    stored = load_file(checkpoint / "model.safetensors")
    weights = {name: torch.from_numpy(array) for name, array in stored.items()}
    heads, size = settings["n_head"], settings["n_embd"] // settings["n_head"]
    epsilon = settings["layer_norm_epsilon"]

    def linear(x: Any, name: str) -> Any:
        return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x: Any, name: str) -> Any:
        own = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(x, x.shape[-1:], *own, epsilon)

    powers = torch.arange(0, size, 2, dtype=torch.float32) / size
    angles = torch.outer(
        torch.arange(len(text), dtype=torch.float32), 1.0 / settings["rotary_emb_base"] ** powers
    )
    cos, sin = (torch.cat([part, part], -1) for part in (angles.cos(), angles.sin()))

    def turned(x: Any) -> Any:
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat([-right, left], -1) * sin

    activation = functional.silu if settings["activation_function"] == "swiglu" else functional.gelu
    with torch.inference_mode():
        words = weights["embeddings.word_embeddings.weight"][list(text)]
        x = norm(words + weights["embeddings.token_type_embeddings.weight"][0], "emb_ln")
        for i in range(settings["n_layer"]):
            at = f"encoder.layers.{i}."
            qkv = linear(x, f"{at}attn.Wqkv").view(len(text), 3, heads, size)
            q, k, v = qkv.permute(1, 2, 0, 3)
            scores = turned(q) @ turned(k).transpose(-1, -2) / size**0.5
            attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(text), -1)
            x = norm(x + linear(attended, f"{at}attn.out_proj"), f"{at}norm1")
            inner = linear(x, f"{at}mlp.fc11") * activation(linear(x, f"{at}mlp.fc12"))
            x = norm(x + linear(inner, f"{at}mlp.fc2"), f"{at}norm2")
        states: NDArray[np.float32] = x.numpy()
    return states
