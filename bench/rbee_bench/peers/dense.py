"""A GGUF file's weights, dequantised by transformers into a directory its classes load."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def dense_directory(gguf: Path, workspace: Path) -> Path:
    """Return the directory of ``gguf`` in ``workspace``, made if it is not there yet.

    Raises:
        ImportError: torch or transformers is not installed.
    """
    target = workspace / "dense"
    if not target.is_dir():
        with whole_directory(target) as directory:
            _save(gguf, directory)
    return target


@contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """Give a directory to fill, which takes its final name only once it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as staging:
        directory = Path(staging) / target.name
        directory.mkdir()
        yield directory
        directory.replace(target)


def _save(gguf: Path, directory: Path) -> None:
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    # What from_pretrained(gguf_file=...) does, less its need of the accelerate package.
    loading: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    config = transformers.AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = loading.load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model)
    left = model.load_state_dict(weights["tensors"], strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    missing = set(left.missing_keys) - tied
    if missing or left.unexpected_keys:
        raise RuntimeError(f"transformers cannot place the weights of {gguf.name}: {left}")
    model.tie_weights()
    model.save_pretrained(directory)
    transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(
        directory
    )
