"""A small model of every family, as the exporter reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from gpu_check.family_configs import BASE, CONFIGS
from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.hf_layout import read_config

FAMILIES: Mapping[str, DecoderConfig] = MappingProxyType(
    {
        name: read_config(Path(name) / "config.json", {**BASE, **config})
        for name, config in CONFIGS.items()
    }
)
"""By name, the hyper-parameters of a model that a step of takes no time."""
