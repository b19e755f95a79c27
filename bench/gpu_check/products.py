"""How much of a step its matrix products alone take: what the rest takes is the difference."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from gpu_check import place
from gpu_check.child import Report, Skipped
from gpu_check.shapes import config
from gpu_check.tiled_artifact import write_artifact
from rbee_bench.peers.onnx_reads import weight_bytes
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend.opening import choose_device
from rbee_runtime.backend.session import Binding, open_session

ROWS = (1, 64)
_PRODUCTS = ("Gemm", "MatMulNBits")
_TURNS = 20
_ROOM = 1.1
"""What the weights take of the GPU, in sizes of themselves."""


def measure(report: Report, model: str, precision: Any) -> None:
    """Time the products of a step, one after the other in one captured graph, and nothing else."""
    directory = report.directory / "artifact"
    write_artifact(config(model), precision, directory)
    artifact = Artifact.open(directory)
    graph = directory / "products.onnx"
    widths = write_products(artifact.file("graph"), graph)
    held = weight_bytes(graph)
    free, _ = place.library().memory()
    if free < _ROOM * held:
        raise Skipped(
            f"the weights take {held / 1e9:.1f} GB, and {free / 1e9:.1f} GB of the GPU's memory "
            "are free"
        )
    device = choose_device(artifact, "cuda", place.DEVICE)
    session = open_session(graph, device)
    for rows in ROWS:
        binding = Binding(session, device, rows)
        kept = {name: device.zeros((rows, width), "float16") for name, width in widths.items()}
        for given in session.get_inputs():
            binding.input(given.name, kept[given.name])
        for made in session.get_outputs():
            binding.output(made.name, kept[made.name])
        seconds = []
        for _ in range(_TURNS):
            began = time.perf_counter()
            binding.run(rows)
            device.finish()
            seconds.append(time.perf_counter() - began)
        # The first ones capture.
        each = statistics.median(seconds[_TURNS // 4 :])
        found: dict[str, Any] = {
            **{"model": model, "precision": precision, "rows": rows},
            **{"seconds": each, "bytes a second": held / each},
        }
        report.row(**found)


def write_products(graph: Path, target: Path) -> Mapping[str, int]:
    """Write a graph of the products of another, each by itself, over the same weights' file.

    Returns:
        The width of each input and output, by name.
    """
    model = onnx.load(graph, load_external_data=False)
    sizes = {one.name: list(one.dims) for one in model.graph.initializer}
    nodes, widths = [], {}
    for node in model.graph.node:
        if node.op_type not in _PRODUCTS:
            continue
        outputs, columns = _shape(node, sizes)
        node.input[0], width = f"x.{columns}", columns
        widths[node.input[0]] = width
        widths[node.output[0]] = outputs
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    half = onnx.TensorProto.FLOAT16
    values = {
        name: onnx.helper.make_tensor_value_info(name, half, ["rows", width])
        for name, width in widths.items()
    }
    made = {node.output[0] for node in nodes}
    products = onnx.helper.make_graph(
        nodes,
        "products",
        [value for name, value in values.items() if name not in made],
        [values[node.output[0]] for node in nodes],
        [one for one in model.graph.initializer if one.name in used],
    )
    kept = onnx.helper.make_model(
        products, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    onnx.save(kept, target)
    return widths


def _shape(node: onnx.NodeProto, sizes: Mapping[str, list[int]]) -> tuple[int, int]:
    """Return the outputs and the inputs of a product's matrix."""
    if node.op_type == "Gemm":
        outputs, columns = sizes[node.input[1]]
        return outputs, columns
    told = {one.name: one.i for one in node.attribute}
    return told["N"], told["K"]
