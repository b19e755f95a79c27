"""Checkpoints of Qwen3.5, which ``transformers`` 4 does not know, of Qwen3-Next's weights.

The models differ in how tensors are cut: Qwen3-Next has one projection of queries, keys, values and
their gates, one head of keys after another.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Tensors = dict[str, NDArray[Any]]


def as_qwen3_5(checkpoint: Path, directory: Path) -> Path:
    """Copy a checkpoint of Qwen3-Next as one of a multimodal Qwen3.5, with experts or without."""
    copied = Path(shutil.copytree(checkpoint, directory / "qwen3_5"))
    config = json.loads((checkpoint / "config.json").read_text())
    sparse = len(config["mlp_only_layers"]) < config["num_hidden_layers"]
    kind = "qwen3_5_moe" if sparse else "qwen3_5"
    rope = {
        "rope_type": "default",
        "rope_theta": config.pop("rope_theta"),
        "partial_rotary_factor": config.pop("partial_rotary_factor"),
        "mrope_section": [3, 3, 2],
        "mrope_interleaved": True,
    }
    config |= {"model_type": f"{kind}_text", "rope_parameters": rope}
    outer = {
        "model_type": kind,
        "text_config": config,
        "vision_config": {"depth": 1},
        "tie_word_embeddings": config.pop("tie_word_embeddings"),
    }
    (copied / "config.json").write_text(json.dumps(outer))
    tensors = load_file(checkpoint / "model.safetensors")
    save_file(_renamed(tensors, config), copied / "model.safetensors", {"format": "pt"})
    return copied


def _renamed(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    heads, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    wide, shared = config["linear_value_head_dim"], values // heads
    sizes = [config["linear_key_head_dim"]] * 2 + [shared * wide] * 2
    cut: Tensors = {
        "model.visual.patch_embed.weight": np.zeros((2, 2), np.float32),
        "mtp.fc.weight": np.zeros((2, 2), np.float32),
    }
    experts: dict[str, dict[int, NDArray[Any]]] = {}
    for name, weight in tensors.items():
        own = name.replace("model.", "model.language_model.", 1)
        if ".mlp.experts." in name:
            at, _, rest = own.partition(".experts.")
            number, part, _ = rest.split(".")
            experts.setdefault(f"{at}.experts.{part}", {})[int(number)] = weight
        elif name.endswith("in_proj_qkvz.weight"):
            q, k, v, z = _heads(weight, heads, sizes)
            cut[own.replace("qkvz", "qkv")] = np.concatenate([q, k, v])
            cut[own.replace("qkvz", "z")] = z
        elif name.endswith("in_proj_ba.weight"):
            for short, part in zip("ba", _heads(weight, heads, [shared, shared]), strict=True):
                cut[own.replace("ba.", f"{short}.")] = part
        else:
            cut[own] = weight
    stacks = {name: np.stack([of[i] for i in range(len(of))]) for name, of in experts.items()}
    for name, gates in stacks.items():
        if name.endswith("gate_proj"):
            ups = stacks[name.replace("gate_proj", "up_proj")]
            cut[name.replace("gate_proj", "gate_up_proj")] = np.concatenate([gates, ups], axis=1)
        elif name.endswith("down_proj"):
            cut[name] = gates
    return cut


def _heads(weight: NDArray[Any], heads: int, sizes: list[int]) -> list[NDArray[Any]]:
    """Return what each head has of several weights, those of all heads together."""
    parts = np.split(weight.reshape(heads, sum(sizes), -1), np.cumsum(sizes)[:-1], axis=1)
    return [np.ascontiguousarray(part.reshape(-1, weight.shape[1])) for part in parts]
