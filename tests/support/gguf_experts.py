"""The experts of a safetensors checkpoint, as llama.cpp's converter stacks them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_NUMBERED = re.compile(r"(?P<start>.*\.experts)\.(?P<expert>\d+)\.(?P<end>.*)")
_GPT_OSS = ".mlp.experts.gate_up_proj", ".mlp.experts.down_proj"
_FUSED = ".block_sparse_moe.input_linear."


def stacked(weights: Mapping[str, Floats]) -> Iterator[tuple[str, Floats, tuple[str, ...]]]:
    """Yield every tensor to write: a name of its own, its values, and those it is a stack of."""
    stacks: dict[str, list[str]] = {}
    beside = any(_FUSED in name for name in weights)
    for name, weight in weights.items():
        found = _NUMBERED.fullmatch(name)
        if found:
            stacks.setdefault(f"{found['start']}.{found['end']}", []).append(name)
        elif _FUSED in name:
            for part, values in zip(("gate", "up"), np.split(weight, 2, axis=1), strict=True):
                yield name.replace(_FUSED, f".mlp.experts.{part}_proj."), values, (name,)
        elif ".shared_mlp." in name:
            yield from _shared(name, weight, ".feed_forward.shared_expert." if beside else ".mlp.")
        elif name.removesuffix("_bias").endswith(_GPT_OSS):
            yield from _gpt_oss(name, weight)
        else:
            # A tensor without suffix is one of weights, or of biases.
            suffix = {"sinks": ".weight", "expert_bias": ".bias"}.get(name.split(".")[-1], "")
            own = name.replace("mamba.dt_bias", "mamba.dt_proj.bias")
            yield own + suffix, weight, (name,)
    for name, parts in stacks.items():
        parts.sort(key=lambda part: int(part.split(".experts.")[1].split(".")[0]))
        merged = name
        for short, projection in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
            merged = merged.replace(
                f".block_sparse_moe.experts.{short}.", f".mlp.experts.{projection}."
            )
        if ".feed_forward.experts." in merged:
            merged = merged.removeprefix("model.")
        yield merged, np.stack([weights[part] for part in parts]), tuple(parts)


def _shared(
    name: str, weight: Floats, within: str
) -> Iterator[tuple[str, Floats, tuple[str, ...]]]:
    at, _, end = name.partition(".shared_mlp.")
    if end.startswith("output_linear"):
        yield f"{at}{within}down_proj.weight", weight, (name,)
        return
    for part, values in zip(("gate", "up"), np.split(weight, 2), strict=True):
        yield f"{at}{within}{part}_proj.weight", values, (name,)


def _gpt_oss(name: str, weight: Floats) -> Iterator[tuple[str, Floats, tuple[str, ...]]]:
    biases = name.endswith("_bias")
    plain = name.removesuffix("_bias")
    suffix = "bias" if biases else "weight"
    weight = weight if biases else weight.swapaxes(1, 2)
    if not plain.endswith("gate_up_proj"):
        yield f"{plain}.{suffix}", np.ascontiguousarray(weight), (name,)
        return
    for i, part in enumerate(("gate", "up")):
        own = plain.replace("gate_up", part)
        yield f"{own}.{suffix}", np.ascontiguousarray(weight[:, i::2]), (name,)


def unstacked(
    names: tuple[str, ...], values: Floats, before: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Return what a written tensor's values are by the names it was made of.

    Args:
        names: Those names.
        values: The values.
        before: What was returned of other tensors: gate and up of fused ones go together.
    """
    if len(names) > 1:
        return dict(zip(names, values, strict=True))
    (name,) = names
    if name.removesuffix("_bias").endswith(_GPT_OSS):
        parts = values if name.endswith("_bias") else values.swapaxes(1, 2)
        if "gate_up_proj" not in name:
            return {name: np.ascontiguousarray(parts)}
        # The gate comes first.
        whole = before.get(name, np.empty((*parts.shape[:-1], 2 * parts.shape[-1]), np.float32))
        whole[..., int(name in before) :: 2] = parts
        return {name: whole}
    if (_FUSED in name or ".shared_mlp." in name) and name in before:
        return {name: np.concatenate([before[name], values], axis=-2)}
    return {name: values}


def metadata(architecture: str, c: Mapping[str, object]) -> dict[str, object]:
    """Return what metadata say of the experts in a configuration, without the prefix."""
    count = c.get("num_experts", c.get("num_local_experts"))
    if count is None:
        return {}
    keys = {"expert_count": count, "expert_used_count": c["num_experts_per_tok"]}
    if architecture == "gpt-oss":
        keys["expert_feed_forward_length"] = c["intermediate_size"]
    if "shared_intermediate_size" in c:
        keys["expert_shared_feed_forward_length"] = c["shared_intermediate_size"]
    if architecture == "lfm2moe":
        keys["leading_dense_block_count"] = c["num_dense_layers"]
        keys["expert_gating_func"] = 2
    if architecture in ("qwen2moe", "qwen3moe", "qwen3next", "qwen35moe", "lfm2moe"):
        keys["expert_feed_forward_length"] = c["moe_intermediate_size"]
    if architecture in ("qwen2moe", "qwen3next", "qwen35moe"):
        keys["expert_shared_feed_forward_length"] = c["shared_expert_intermediate_size"]
    return keys
