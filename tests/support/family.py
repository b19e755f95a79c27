"""What a family of checkpoints is to tests, and how to turn its peculiarities off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Off:
    """How to turn one peculiarity of a model off; what it computes must then change.

    Attributes:
        settings: Configuration to change.
        zeroed: Pattern of parameters to set to zero.
        bypassed: Pattern of modules that return what they are given.
        attributes: Numbers of modules to change, by their names; all those of a parameter.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    zeroed: str | None = None
    bypassed: str | None = None
    attributes: Mapping[str, float] = field(default_factory=dict)


def zeroed(pattern: str) -> Off:
    return Off(zeroed=pattern)


def bypassed(pattern: str) -> Off:
    return Off(bypassed=pattern)


def settings(**changed: Any) -> Off:
    return Off(settings=changed)


def attributes(**changed: float) -> Off:
    return Off(attributes=changed)


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of checkpoint.

    Attributes:
        model_type: As in ``config.json``.
        config: What differs from ``BASE``.
        off: By name, how to turn each of its peculiarities off.
        left_out: Keys that ``transformers`` writes and older checkpoints do not have.
        gguf: Whether a GGUF file can say all of this.
        renamed: Prefixes of tensors to replace, where checkpoints come with other names.
        precisions: At which its fidelity is measured, besides ``fp32``.
        blocks: Whether it is measured from a GGUF file's blocks.
    """

    model_type: str
    config: Mapping[str, Any] = field(default_factory=dict)
    off: Mapping[str, Off] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    gguf: bool = True
    renamed: Mapping[str, str] = field(default_factory=dict)
    precisions: Sequence[str] = ("fp16", "bf16", "int8", "int4")
    blocks: bool = True

    @property
    def experts(self) -> bool:
        """Whether its layers have experts."""
        return any(self.config.get(count) for count in ("num_experts", "num_local_experts"))

    @property
    def for_gpus(self) -> bool:
        """Whether it may be compiled for GPUs: experts and hybrids run on CPUs alone."""
        mixed = "mamba" in self.config.get("layer_types", ())
        return not (self.experts or mixed or self.model_type in ("qwen3_next", "lfm2"))


QKV_BIAS = {f"{name} bias": zeroed(rf"{name}_proj\.bias$") for name in "qkv"}
QK_NORM = {"q norm": bypassed("q_norm"), "k norm": bypassed("k_norm")}
EVERY_BIAS = {
    f"{name} bias": zeroed(rf"{name}_proj\.bias$") for name in ("q", "k", "v", "o", "gate", "up")
} | {"down bias": zeroed(r"down_proj\.bias$")}
