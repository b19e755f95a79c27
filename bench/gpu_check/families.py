"""A small model of every family, as the exporter reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpu_check.family_configs import BASE, CONFIGS, WIDE
from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.hf_layout import read_config


def small(name: str, config: Mapping[str, Any]) -> DecoderConfig:
    """Return hyper-parameters from what of ``config.json`` differs from the usual."""
    return read_config(Path(name) / "config.json", {**BASE, **config})


FAMILIES: Mapping[str, DecoderConfig] = MappingProxyType(
    {name: small(name, config) for name, config in CONFIGS.items()}
)
"""By name, the hyper-parameters of a model that a step of takes no time."""

MODELS: Mapping[str, DecoderConfig] = MappingProxyType(
    {**FAMILIES, **{name: small(name, config) for name, config in WIDE.items()}}
)
"""Those, and wider ones."""
