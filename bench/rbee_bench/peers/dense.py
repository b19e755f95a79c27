"""A GGUF file's weights, dequantised by transformers into a directory its classes load."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rbee_bench.peers.peer import Arithmetic, Reads


def dense_directory(gguf: Path, workspace: Path) -> Path:
    """Return the directory of ``gguf`` in ``workspace``, made if it is not there yet.

    Raises:
        ImportError: torch or transformers is not installed.
    """
    target = workspace / _NAME
    if not target.is_dir():
        with whole_directory(target) as directory:
            _save(gguf, directory)
    return target


def made_dense_directory(gguf: Path, workspace: Path) -> Path:
    """Return what :func:`dense_directory` does, with torch in a process that ends.

    Raises:
        RuntimeError: It cannot be made; one line says why.
    """
    command = [sys.executable, "-m", __name__, str(gguf), str(workspace)]
    if not (workspace / _NAME).is_dir():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = done.stderr.strip() or f"ended with code {done.returncode}"
            raise RuntimeError(f"its weights cannot be made: {said.splitlines()[-1]}")
    return workspace / _NAME


def dense_reads(directory: Path, item_bytes: int, arithmetic: Arithmetic | None) -> Reads:
    """Return what a token reads of the model in ``directory``, in numbers of so many bytes each."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    shapes: dict[str, list[int]] = {}
    for file in directory.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        shapes |= {name: one["shape"] for name, one in header.items() if "shape" in one}
    if "lm_head.weight" in shapes:
        del shapes["model.embed_tokens.weight"]
    # Of a layer's experts a token is given some.
    given = config.get("num_experts_per_tok", 1)
    given /= config.get("num_experts") or config.get("num_local_experts") or given
    sizes = {
        name: round(math.prod(shape) * (given if ".experts." in name else 1))
        for name, shape in shapes.items()
    }
    weights = sum(sizes.values())
    numbers = sum(size for name, size in sizes.items() if len(shapes[name]) > 1)
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    cached = config["num_hidden_layers"] * config.get("num_key_value_heads", heads) * width
    return Reads(item_bytes * weights, 2 * item_bytes * cached, 2 * numbers, arithmetic)


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


_NAME = "dense"

if __name__ == "__main__":
    dense_directory(*map(Path, sys.argv[1:]))
