"""An artifact's graph run over a text, a part at a time, so that no machine need hold the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from rbee_export.errors import ExportError
from rbee_runtime.artifact import Artifact

Arrays = dict[str, NDArray[Any]]

PART = 256 << 20
"""Bytes of weights that are in memory together."""


def artifact_logits(
    artifact: Artifact,
    ids: Sequence[int],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    part: int = PART,
) -> NDArray[np.float32]:
    """Return what an artifact predicts after each token, on the CPU.

    Its graph keeps the last position only; here all of them are kept.

    Args:
        artifact: Of the ``ort`` or ``standard`` dialect.
        ids: A text of T tokens.
        progress: Called with parts done, and how many there are.
        part: Bytes of weights that a part may have, unless one operator has more.

    Returns:
        ``float32[T, vocab]``.

    Raises:
        ExportError: ONNX Runtime cannot run the graph here.
    """
    graph = artifact.file("graph")
    model = ir.load(graph)
    _without_bfloat16(model.graph)
    _keep_every_position(model, artifact.manifest.shapes.hidden)
    parts = list(_parts(model.graph, part))
    known = _inputs(model.graph, artifact, ids)
    try:
        for done, nodes in enumerate(parts):
            progress(done, len(parts))
            later = {value for rest in parts[done + 1 :] for node in rest for value in node.inputs}
            found = _run(_cut(model, nodes, later, known), graph.parent, known)
            wanted = {value.name for value in later if value is not None}
            known = found | {name: array for name, array in known.items() if name in wanted}
    except Exception as error:  # the library's exceptions share no narrower base
        raise ExportError(f"{graph}: cannot be run on this CPU: {error}") from error
    return known["logits"].reshape(len(ids), -1)


def _parts(graph: ir.Graph, most: int) -> Iterator[list[ir.Node]]:
    """Cut a graph into runs of nodes."""
    part: list[ir.Node] = []
    weights: dict[str, int] = {}
    for node in graph:
        more = {name: size for name, size in _weights(node) if name not in weights}
        if part and sum(weights.values()) + sum(more.values()) > most:
            yield part
            part, weights = [], {}
        part.append(node)
        weights.update(more)
    yield part


def _weights(node: ir.Node) -> Iterator[tuple[str, int]]:
    for value in node.inputs:
        if value is not None and value.const_value is not None:
            yield str(value.name), value.const_value.nbytes


def _cut(
    model: ir.Model, nodes: Sequence[ir.Node], later: set[ir.Value | None], known: Arrays
) -> ir.Model:
    """Return a part as a model of its own, with the logits or what later parts need as outputs."""
    made = {value: None for node in nodes for value in node.outputs}
    taken = {
        value: None
        for node in nodes
        for value in node.inputs
        if value is not None and value not in made
    }
    for value in taken:
        if value.const_value is None:
            array = known[str(value.name)]
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = ir.Shape(array.shape)
    part = ir.GraphView(
        [value for value in taken if value.const_value is None],
        [value for value in made if value in later or value.name == "logits"],
        nodes=nodes,
        initializers=[value for value in taken if value.const_value is not None],
        opset_imports=model.graph.opset_imports,
        name="part",
    )
    functions = list(model.functions.values())
    return ir.Model(part.clone(), ir_version=model.ir_version, functions=functions)


def _run(model: ir.Model, directory: Path, known: Arrays) -> Arrays:
    """Run a part and return its outputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(directory)
    )
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    found = session.run(names, {i.name: known[i.name] for i in session.get_inputs()})
    return dict(zip(names, found, strict=True))


def _without_bfloat16(graph: ir.Graph) -> None:
    """Have a graph compute in float32 what it would in bfloat16, for which CPUs have no operators.

    Its weights stay as they were rounded.
    """
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.dtype == ir.DataType.BFLOAT16:
            value.dtype = ir.DataType.FLOAT
            if value.const_value is not None:
                value.const_value = _float32(value.const_value)
    for node in graph:
        for value in node.outputs:
            if value.dtype == ir.DataType.BFLOAT16:
                value.dtype = ir.DataType.FLOAT
        for name in ("to", "output_dtype"):
            if name in node.attributes and node.attributes[name].value == ir.DataType.BFLOAT16:
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)


def _float32(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor's values in float32, worked out when they are needed."""
    return ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().astype(np.float32)),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )


def _keep_every_position(model: ir.Model, hidden: int) -> None:
    """Have what a graph does to the last position done to all of them, each a row of its own."""
    for node in model.graph:
        if node.op_type != "Gather" or node.inputs[1] is None:
            continue
        if node.inputs[1].name not in ("const.-1", "const.[-1]"):
            continue
        # Looking up a list of one leaves a dimension for it.
        sizes = [-1, hidden] if node.inputs[1].name == "const.-1" else [-1, 1, hidden]
        array = np.asarray(sizes, np.int64)
        shape = ir.Value(name="const.every_position", type=ir.TensorType(ir.DataType.INT64))
        shape.const_value = ir.tensor(array, name="const.every_position")
        shape.shape = ir.Shape([len(sizes)])
        model.graph.initializers[str(shape.name)] = shape
        every = ir.Node("", "Reshape", [node.inputs[0], shape], name="every_position")
        model.graph.insert_before(node, every)
        node.outputs[0].replace_all_uses_with(every.outputs[0])
        model.graph.remove(node, safe=True)
        return


def _inputs(graph: ir.Graph, artifact: Artifact, ids: Sequence[int]) -> Arrays:
    """Return a step over the whole text, with an empty cache that just holds it."""
    count, manifest = len(ids), artifact.manifest
    cache = manifest.cache
    long_rope = manifest.long_rope
    first = long_rope.original_context if long_rope else 0
    first = first if count > first else 0
    known: dict[str, NDArray[Any]] = {
        "input_ids": np.asarray([ids], np.int64),
        **{f"{kind}seqlens_k": np.asarray([count - 1], np.int32) for kind in ("", "window_")},
        **{f"{kind}total_sequence_length": np.asarray(count, np.int32) for kind in ("", "window_")},
        "position_ids": np.arange(first, first + count, dtype=np.int64)[None],
        "write_indices": np.zeros(1, np.int64),
        "nonpad_kv_seqlen": np.asarray([count], np.int64),
    }
    past = (1, cache.kv_heads, count, cache.head_dim)
    held: dict[str, tuple[int, ...]] = {"key": past, "value": past}
    if cache.state is not None:
        held |= {kind: (1, *shape) for kind, shape in cache.state.shapes.items()}
    for value in graph.inputs:
        if value.const_value is None and value.name not in known and value.dtype is not None:
            kind = str(value.name).removeprefix("past_").partition(".")[0]
            known[str(value.name)] = np.zeros(held[kind], value.dtype.numpy())
    names = [str(value.name) for value in graph.inputs if value.const_value is None]
    return {name: known[name] for name in names}
