"""Run ONNX Runtime GenAI's model builder at int4: ``GGUF WORKSPACE DIRECTORY``."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

from rbee_bench.peers.dense import dense_directory

_NEWER_CLASSES = ("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration")
"""Classes the builder imports whatever it builds, and transformers 4 does not have."""


def main(gguf: Path, workspace: Path, target: Path) -> None:
    """Build the model of ``gguf`` in ``target``."""
    # With its first model class, transformers puts another module object in its own place.
    assert importlib.import_module("transformers").LlamaForCausalLM
    transformers: Any = sys.modules["transformers"]
    for name in _NEWER_CLASSES:
        if not hasattr(transformers, name):
            setattr(transformers, name, type(name, (), {}))
    dense = dense_directory(gguf, workspace)
    with tempfile.TemporaryDirectory(dir=workspace) as scratch:
        source = Path(scratch) / "source"
        source.mkdir()
        for file in dense.iterdir():
            (source / file.name).symlink_to(file.resolve())
        _state_the_rope(source / "config.json")
        options = ["-m", str(source), "-o", str(target), "-p", "int4", "-e", "cpu"]
        sys.argv = ["builder", *options, "-c", str(Path(scratch) / "cache")]
        runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")


def _state_the_rope(file: Path) -> None:
    """Name the kind of rotary embedding, which the builder wants named even where it is plain."""
    config = json.loads(file.read_text())
    if config.get("rope_scaling") is None:
        config["rope_scaling"] = {"rope_type": "default"}
    file.unlink()
    file.write_text(json.dumps(config))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
