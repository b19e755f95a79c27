"""What engines make of an encoder's directory, each form once, kept in the workspace."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rbee_bench.peers.dense import whole_directory

_NEEDS = {
    "onnx": ("torch", "transformers", "optimum.exporters.onnx", "onnxruntime.transformers"),
    "openvino": ("torch", "transformers", "openvino", "openvino_tokenizers"),
}


def converted(form: str, encoder: Path, workspace: Path) -> Path:
    """Return the directory with an encoder in another form, made if it is not there yet.

    It is made in a process of its own: torch stays out of the one that is timed.

    Args:
        form: ``onnx`` has ``fp32.onnx`` and ``int8.onnx``, ``openvino`` the files of its pipelines.
        encoder: A directory of transformers.
        workspace: Where to keep it.

    Raises:
        ImportError: What makes it is not installed.
        RuntimeError: It cannot be made; one line says why.
    """
    target = workspace / f"embedder-{form}"
    if not target.is_dir():
        for needed in _NEEDS[form]:
            if not _installed(needed):
                raise ImportError(f"its conversion needs {needed}", name=needed)
        with whole_directory(target) as directory:
            command = [sys.executable, "-m", __name__, form, str(encoder), str(directory)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                said = done.stderr.strip() or f"ended with code {done.returncode}"
                raise RuntimeError(f"its conversion failed: {said.splitlines()[-1]}")
    return target


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def _make_onnx(encoder: Path, directory: Path) -> None:
    """Export by optimum, fuse and quantise by ONNX Runtime's own tools for such models."""
    exporting: Any = importlib.import_module("optimum.exporters.onnx")
    optimizer: Any = importlib.import_module("onnxruntime.transformers.optimizer")
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as scratch:
        exporting.main_export(
            str(encoder),
            output=scratch,
            task="feature-extraction",
            library_name="transformers",
            do_validation=False,
        )
        optimizer.optimize_model(
            str(Path(scratch) / "model.onnx"),
            model_type="bert",
            num_heads=0,  # it looks for itself
            hidden_size=0,
        ).save_model_to_file(str(directory / "fp32.onnx"))
    quantization.quantize_dynamic(
        directory / "fp32.onnx",
        directory / "int8.onnx",
        per_channel=True,
        # It cannot tell the types of what fused operators give, all of which are of this one.
        extra_options={"DefaultTensorType": 1},
    )


def _make_openvino(encoder: Path, directory: Path) -> None:
    """Convert by OpenVINO from torch, as optimum-intel does."""
    openvino: Any = importlib.import_module("openvino")
    tokenizers: Any = importlib.import_module("openvino_tokenizers")
    transformers: Any = importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    model = transformers.AutoModel.from_pretrained(encoder).eval()
    example = dict(tokenizer(["two texts", "of unlike length"], padding=True, return_tensors="pt"))
    graph = openvino.convert_model(model, example_input=example)
    # The pipeline takes no second output, as BERT's head for its first token is.
    graph = openvino.Model(graph.get_results()[:1], graph.get_parameters())
    openvino.save_model(graph, directory / "openvino_model.xml", compress_to_fp16=False)
    openvino.save_model(
        tokenizers.convert_tokenizer(tokenizer), directory / "openvino_tokenizer.xml"
    )


if __name__ == "__main__":
    {"onnx": _make_onnx, "openvino": _make_openvino}[sys.argv[1]](*map(Path, sys.argv[2:]))
