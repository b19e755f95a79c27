"""The DeltaNets of a Qwen3-Next checkpoint, as llama.cpp's converter cuts them.

In files of Qwen3.5, heads of values that share one of keys are apart: the first of each comes
first, then the second of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Cut:
    """How the tensors of a configuration are cut, and put together again.

    Args:
        architecture: GGUF's name of it.
        config: The configuration.
    """

    def __init__(self, architecture: str, config: Mapping[str, Any]) -> None:
        self._heads = config.get("linear_num_key_heads", 1)
        self._shared = config.get("linear_num_value_heads", 1) // self._heads
        self._key, self._value = (
            config.get(f"linear_{kind}_head_dim", 1) for kind in ("key", "value")
        )
        self._tiled = architecture in ("qwen35", "qwen35moe")
        self._sizes = [self._key, self._key, *[self._shared * self._value] * 2]

    def parts(self, name: str, weight: Floats) -> Iterator[tuple[str, Floats, str]]:
        """Yield what a tensor becomes: a converter's name, values, and whose part they are."""
        if name.endswith("in_proj_qkvz.weight"):
            q, k, v, z = self._apart(weight, self._sizes)
            v, z = (self._tile(values, self._value) for values in (v, z))
            yield name.replace("qkvz", "qkv"), np.concatenate([q, k, v]), f"{name}#qkv"
            yield name.replace("qkvz", "z"), z, f"{name}#z"
        elif name.endswith("in_proj_ba.weight") and self._tiled:
            for short, part in zip("ba", self._apart(weight, [self._shared] * 2), strict=True):
                yield name.replace("ba.", f"{short}."), self._tile(part, 1), f"{name}#{short}"
        elif name.endswith("conv1d.weight"):
            yield name, self._tile_channels(weight[:, 0], self._tile), name
        elif name.endswith("A_log"):
            yield name, self._tile(-np.exp(weight), 1), name
        elif name.endswith("dt_bias"):
            yield name.replace("dt_bias", "dt_proj.bias"), self._tile(weight, 1), name
        elif name.endswith("linear_attn.out_proj.weight"):
            columns = self._tile(np.ascontiguousarray(weight.T), self._value).T
            yield name, np.ascontiguousarray(columns), name
        elif name.endswith("norm.weight") and "linear_attn" not in name:
            yield name, weight + 1, name
        else:
            yield name, weight, name

    def whole(self, name: str, values: Floats) -> Floats:
        """Undo what became of a tensor that was not cut."""
        if name.endswith("conv1d.weight"):
            return self._tile_channels(values, self._untile)[:, None]
        if name.endswith("A_log"):
            return self._untile(np.log(-values), 1)
        if name.endswith("dt_bias"):
            return self._untile(values, 1)
        if name.endswith("linear_attn.out_proj.weight"):
            columns = self._untile(np.ascontiguousarray(values.T), self._value).T
            return np.ascontiguousarray(columns)
        if name.endswith("norm.weight") and "linear_attn" not in name:
            return values - 1
        return values

    def together(self, stands_for: dict[str, Floats]) -> None:
        """Put together what was cut, in place."""
        for name in [one.removesuffix("#z") for one in stands_for if one.endswith("#z")]:
            qkv, z = (stands_for.pop(f"{name}#{part}") for part in ("qkv", "z"))
            keys = self._heads * self._key
            q, k, v = np.split(qkv, [keys, 2 * keys])
            v, z = (self._untile(values, self._value) for values in (v, z))
            stands_for[name] = self._beside([q, k, v, z], self._sizes)
        for name in [one.removesuffix("#b") for one in stands_for if one.endswith("#b")]:
            parts = [self._untile(stands_for.pop(f"{name}#{part}"), 1) for part in "ba"]
            stands_for[name] = self._beside(parts, [self._shared] * 2)

    def _apart(self, weight: Floats, sizes: list[int]) -> list[Floats]:
        cut = np.split(weight.reshape(self._heads, sum(sizes), -1), np.cumsum(sizes)[:-1], axis=1)
        return [np.ascontiguousarray(part.reshape(-1, weight.shape[1])) for part in cut]

    def _beside(self, parts: list[Floats], sizes: list[int]) -> Floats:
        cut = [p.reshape(self._heads, size, -1) for p, size in zip(parts, sizes, strict=True)]
        return np.concatenate(cut, axis=1).reshape(-1, parts[0].shape[1])

    def _tile(self, values: Floats, width: int) -> Floats:
        return self._turned(values, self._heads, self._shared, width)

    def _untile(self, values: Floats, width: int) -> Floats:
        return self._turned(values, self._shared, self._heads, width)

    def _turned(self, values: Floats, outer: int, inner: int, width: int) -> Floats:
        if not self._tiled:
            return values
        cut = values.reshape(outer, inner, width, *values.shape[1:])
        return np.ascontiguousarray(cut.swapaxes(0, 1)).reshape(values.shape)

    def _tile_channels(self, filters: Floats, turn: Any) -> Floats:
        keys = 2 * self._heads * self._key
        return np.concatenate(
            [filters[:keys], turn(np.ascontiguousarray(filters[keys:]), self._value)]
        )


def metadata(architecture: str, c: Mapping[str, Any]) -> dict[str, Any]:
    """Return what metadata say of the DeltaNets in a configuration, without the prefix."""
    if not architecture.startswith(("qwen3next", "qwen35")):
        return {}
    return {
        "ssm.conv_kernel": c["linear_conv_kernel_dim"],
        "ssm.state_size": c["linear_key_head_dim"],
        "ssm.group_count": c["linear_num_key_heads"],
        "ssm.time_step_rank": c["linear_num_value_heads"],
        "ssm.inner_size": c["linear_num_value_heads"] * c["linear_value_head_dim"],
        "full_attention_interval": 4,
        "rope.dimension_count": int(c["head_dim"] * c["partial_rotary_factor"]),
    }
