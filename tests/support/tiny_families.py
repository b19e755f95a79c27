"""A small random checkpoint of every family, made so that each of its peculiarities matters."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .family import Off
from .family_table import BASE, FAMILIES
from .more_families import know_more_families
from .tiny_tokenizer import SPECIALS, save_tokenizer

OFFSET_NORMS = ("gemma", "nemotron", "qwen3_next")
"""Types of models whose norms have weights that are stored less 1."""

__all__ = [
    "FAMILIES",
    "in_newer_form",
    "load_without",
    "save_checkpoint",
    "save_family",
]


WRAPPERS: Mapping[str, tuple[str, str]] = {
    "gemma3": ("gemma3_text", "siglip_vision_model"),
    "mistral3": ("mistral", "pixtral"),
    **{kind: (f"{kind}_text", kind) for kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")},
}
"""Types of a text model beside a vision model, and which these are where nothing else is said."""


def save_family(directory: Path, name: str, dtype: str = "float32", **changed: Any) -> Path:
    """Save a random checkpoint of a family.

    Args:
        directory: Where to.
        name: One of ``FAMILIES``.
        dtype: Of the stored weights: ``float32``, ``float16`` or ``bfloat16``.
        changed: Configuration that differs from the family's.
    """
    family = FAMILIES[name]
    # transformers writes into what it is given.
    config = copy.deepcopy({**BASE, **family.config, **changed})
    save_checkpoint(directory, family.model_type, config, dtype)
    _leave_out(directory / "config.json", family.left_out)
    if family.renamed:
        _rename(directory / "model.safetensors", family.renamed)
    return directory


def save_checkpoint(
    directory: Path,
    model_type: str,
    config: Mapping[str, Any],
    dtype: str = "float32",
    max_shard_size: str = "5GB",
) -> None:
    """Save random weights and the tokenizer as ``transformers`` does.

    Norms are drawn around their neutral value, biases around zero, sinks where they count. Special
    tokens are never the likeliest, so that a completion is as long as was asked for.

    Args:
        directory: Where to.
        model_type: A type that ``transformers`` knows.
        config: All of the configuration that is not to be the type's default.
        dtype: Of the stored weights.
        max_shard_size: Size from which the weights are cut into several files.
    """
    import torch
    import transformers

    know_more_families()
    torch.manual_seed(7)
    made = transformers.AutoConfig.for_model(model_type, **_whole(model_type, config))
    model = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                offset = model_type.startswith(OFFSET_NORMS) and "linear_attn" not in name
                neutral = 0.0 if offset else 1.0
                weight.uniform_(neutral - 0.5, neutral + 0.5)
            elif name.endswith("bias"):
                weight.uniform_(-0.5, 0.5)
            elif name.endswith("sinks"):
                weight.uniform_(0.0, 4.0)
            elif name.endswith("gate_up_proj"):
                weight.mul_(2.0)  # the clamps of gpt-oss then clamp
        head = model.get_output_embeddings()
        for values in filter(lambda found: found is not None, (head.weight, head.bias)):
            values[: len(SPECIALS)] = 0.0
    model.generation_config.eos_token_id = config["eos_token_id"]
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=max_shard_size)
    save_tokenizer(directory)


def _whole(model_type: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put a text model's configuration into that of a multimodal one, where it is one."""
    if model_type not in WRAPPERS:
        return config
    vision = {"hidden_size": 32, "intermediate_size": 32, "patch_size": 14}
    if model_type.startswith("qwen"):
        vision |= {"depth": 1, "num_heads": 2, "out_hidden_size": config["hidden_size"]}
        vision |= {"embed_dim": 32, "deepstack_visual_indexes": [0]}
    else:
        vision |= {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    outer = {key: config[key] for key in ("bos_token_id", "eos_token_id", "tie_word_embeddings")}
    return {
        "text_config": {"model_type": WRAPPERS[model_type][0], **config},
        "vision_config": {"model_type": WRAPPERS[model_type][1], **vision},
        "initializer_range": config["initializer_range"],
        **({"mm_tokens_per_image": 4} if model_type == "gemma3" else {"spatial_merge_size": 1}),
        **outer,
    }


def _leave_out(file: Path, keys: Sequence[str]) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    for key in keys:
        config.get("text_config", config).pop(key)
    file.write_text(json.dumps(config), encoding="utf-8")


def _rename(file: Path, prefixes: Mapping[str, str]) -> None:
    from safetensors.numpy import load_file, save_file

    pattern = re.compile("|".join(f"^{re.escape(prefix)}" for prefix in prefixes))
    tensors = {
        pattern.sub(lambda found: prefixes[found[0]], name): values
        for name, values in load_file(file).items()
    }
    save_file(tensors, file, {"format": "pt"})


def in_newer_form(checkpoint: Path, directory: Path) -> Path:
    """Copy a checkpoint; its rotary settings go where ``transformers`` 5 writes them."""
    copied = Path(shutil.copytree(checkpoint, directory / checkpoint.name))
    config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    scaling = text.pop("rope_scaling", None) or {}
    rope = {"rope_type": scaling.get("type", "default"), **scaling}
    rope["rope_theta"] = text.pop("rope_theta")
    if "partial_rotary_factor" in text:
        rope["partial_rotary_factor"] = text.pop("partial_rotary_factor")
    if "rope_local_base_freq" in text:
        local = {"rope_type": "default", "rope_theta": text.pop("rope_local_base_freq")}
        rope = {"full_attention": rope, "sliding_attention": local}
    text["rope_parameters"] = rope
    (copied / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return copied


def load_without(checkpoint: Path, off: Off) -> Any:
    """Open a checkpoint with ``transformers``, one of its peculiarities turned off."""
    import torch
    import transformers

    know_more_families()
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    for key, value in off.settings.items():
        setattr(config.get_text_config(), key, value)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, config=config, dtype=torch.float32, attn_implementation="eager"
    )
    touched = bool(off.settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if off.zeroed is not None and re.search(off.zeroed, name):
                weight.zero_()
                touched = True
    for name, module in model.named_modules():
        if off.bypassed is not None and re.search(off.bypassed, name):
            module.forward = lambda x: x
            touched = True
        for attribute, value in off.attributes.items():
            found = getattr(module, attribute, None)
            if isinstance(found, torch.nn.Parameter):
                found.data.fill_(value)
            elif isinstance(found, float):
                setattr(module, attribute, value)
            touched |= found is not None
    assert touched, f"nothing in {checkpoint.name} is named so"
    return model.eval()
