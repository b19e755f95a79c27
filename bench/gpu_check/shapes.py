"""The models that are timed."""

from __future__ import annotations

from pathlib import Path

from rbee_bench.random_checkpoint import ModelShape
from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.hf_layout import read_config

SHAPES = {
    "1B": ModelShape(128_256, 2048, 8192, 32, 8, layers=16),  # Llama 3.2 1B's
    "8B": ModelShape(128_256, 4096, 14_336, 32, 8, layers=32),  # Llama 3.1 8B's
}
"""Their output projections are matrices of their own."""

BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Sequences that are decoded together, and prompts that are read one after the other."""

PREFILLS = (1, 8, 64)
CONTEXT = 128
"""Tokens of a prompt before what is decoded."""

LENGTH = 512
"""Tokens of a prompt whose reading is timed."""

CAPACITY = 1024
STEPS = 64
"""Steps that are timed, at least."""


def config(model: str) -> DecoderConfig:
    """Return a model's hyper-parameters."""
    return read_config(Path(model) / "config.json", SHAPES[model].config())
