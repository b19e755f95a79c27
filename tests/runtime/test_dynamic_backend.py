"""The backend for graphs whose cache grows, on a graph small enough to work out by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.running import open_cpu

from rbee_runtime.artifact import (
    MANIFEST_NAME,
    Artifact,
    CacheGeometry,
    FileEntry,
    Manifest,
    Shapes,
    Source,
)
from rbee_runtime.backend import open_backend
from rbee_runtime.backend.dynamic import DynamicBackend
from rbee_runtime.backend.session import open_session
from rbee_runtime.device import HostDevice
from rbee_runtime.errors import ArtifactError, InferenceFailed, OutOfMemory
from rbee_runtime.memory import CachePlan
from rbee_runtime.step import Step

VOCAB, CAPACITY = 8, 40
KEY, VALUE = (2, 3), (1, 5)
BYTES_PER_TOKEN = (2 * 3 + 5) * 4


def adding_graph(positions: bool = True) -> ir.Model:
    """Build a graph whose logits tell everything it was given.

    With x the tokens so far and p their positions (tokens of a step all count as at position 0 if
    the graph takes none), in whole numbers that float32 holds exactly::

        key[h, t, w] = (x[t] + 1) * (p[t] + 1)      value[0, t, w] = x[t]
        logits[v] = (v + 1) * sum(key) + sum(value) + 4096 * sum(attention_mask)
    """
    tape = ir.tape.Tape()
    dims = {"ids": ["batch", "new"], "mask": ["batch", "total"]}
    ids = _value("input_ids", ir.DataType.INT64, dims["ids"])
    mask = _value("attention_mask", ir.DataType.INT64, dims["mask"])
    inputs, graph_outputs = [ids, mask], []
    x = tape.op("Unsqueeze", [_cast(tape, _known(tape, ids)), _constant(tape, [1, 3])])
    placed = tape.op("Add", [x, _constant(tape, 1.0)])
    if positions:
        position = _value("position_ids", ir.DataType.INT64, dims["ids"])
        inputs.append(position)
        place = tape.op("Unsqueeze", [_cast(tape, position), _constant(tape, [1, 3])])
        placed = tape.op("Mul", [placed, tape.op("Add", [place, _constant(tape, 1.0)])])
    sums = {}
    for kind, new, (heads, width) in (("key", placed, KEY), ("value", x, VALUE)):
        past = _cache(f"past_key_values.0.{kind}", "past", heads, width)
        inputs.append(past)
        wide = tape.op("Tile", [new, _constant(tape, [1, heads, 1, width])])
        present = tape.op("Concat", [past, wide], {"axis": 2})
        _become(present, _cache(f"present.0.{kind}", "total", heads, width))
        graph_outputs.append(present)
        sums[kind] = tape.op("ReduceSum", [present], {"keepdims": 0})
    seen = tape.op("ReduceSum", [_cast(tape, mask)], {"keepdims": 0})
    rest = tape.op("Add", [sums["value"], tape.op("Mul", [seen, _constant(tape, 4096.0)])])
    scale = _constant(tape, np.arange(1, VOCAB + 1, dtype=np.float32)[None, None])
    scale.name = "scale"
    logits = tape.op("Add", [tape.op("Mul", [scale, sums["key"]]), rest])
    _become(logits, _value("logits", ir.DataType.FLOAT, ["batch", "rows", VOCAB]))
    graph = ir.Graph(
        inputs, [logits, *graph_outputs], nodes=tape.nodes, opset_imports={"": 18}, name="adding"
    )
    return ir.Model(graph, ir_version=10)


def expected_logits(tokens: list[int]) -> NDArray[np.float32]:
    x = np.array(tokens)
    keys = 2 * 3 * ((x + 1) * (np.arange(len(x)) + 1)).sum()
    rest = 5 * x.sum() + 4096 * len(x)
    return (np.arange(1, VOCAB + 1) * keys + rest).astype(np.float32)


def write_artifact(path: Path, model: ir.Model) -> Path:
    path.mkdir(exist_ok=True)
    ir.save(model, path / "model.onnx")
    (path / "model.onnx.data").write_bytes(b"")  # all it needs are a few constants
    (path / "tokenizer.json").write_text("{}")
    manifest = Manifest(
        exporter="test",
        source=Source(format="safetensors", name="adding", sha256="0" * 64),
        model_ref="file:adding",
        family="adding",
        shapes=Shapes(
            layers=1,
            hidden=8,
            intermediate=8,
            heads=2,
            kv_heads=2,
            head_dim=3,
            vocab=VOCAB,
            context_length=CAPACITY,
        ),
        precision="fp32",
        dialect="optimum",
        cache=CacheGeometry(layers=1, kv_heads=2, head_dim=3, dtype="float32"),
        files=(
            _entry(path / "model.onnx", "graph"),
            _entry(path / "model.onnx.data", "weights"),
            _entry(path / "tokenizer.json", "tokenizer"),
        ),
        bos_token_id=None,
        eos_token_ids=(),
        chat_template=None,
    )
    (path / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return path


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("adding"), adding_graph())


def test_open_backend_plans_for_a_spare_region(artifact: Path) -> None:
    backend = open_cpu(artifact, slots=3)
    assert isinstance(backend, DynamicBackend)
    assert (backend.name, backend.slots, backend.capacity) == ("cpu", 3, CAPACITY)
    assert backend.cache_bytes == 4 * CAPACITY * BYTES_PER_TOKEN


@pytest.mark.parametrize("sizes", [[12], [5, 7], [1] * 12, [7, 1, 1, 3]])
def test_a_text_comes_out_the_same_in_any_steps(artifact: Path, sizes: list[int]) -> None:
    backend, tokens = open_cpu(artifact), [3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 7, 0]
    for end, count in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
        logits = backend.run(Step.of(0, end - count, tokens[end - count : end]))
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, expected_logits(tokens[:end])[None])


def test_a_graph_without_position_ids(tmp_path: Path) -> None:
    backend = open_cpu(write_artifact(tmp_path, adding_graph(positions=False)))
    backend.run(Step.of(0, 0, [3, 4]))
    keys, rest = 6 * (4 + 5 + 2), 5 * (3 + 4 + 1) + 3 * 4096
    logits = backend.run(Step.of(0, 2, [1]))[0]
    np.testing.assert_array_equal(logits, np.arange(1, VOCAB + 1) * keys + rest)


_TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6)
_MOVES = st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1), st.booleans(), _TOKENS))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves=_MOVES)
def test_slots_hold_their_own_text_whatever_is_taken_back(
    artifact: Path, moves: list[tuple[int, float, bool, list[int]]]
) -> None:
    backend, held = open_cpu(artifact, slots=3), [list[int](), [], []]
    for slot, share, takes_back, tokens in moves:
        past = int(share * len(held[slot])) if takes_back else len(held[slot])
        if past + len(tokens) > CAPACITY:
            past = 0
        held[slot] = held[slot][:past] + tokens
        logits = backend.run(Step.of(slot, past, tokens))
        np.testing.assert_array_equal(logits[0], expected_logits(held[slot]))


def test_a_slot_holds_its_whole_capacity_and_not_more(artifact: Path) -> None:
    backend = open_cpu(artifact)
    tokens = [7] * CAPACITY
    np.testing.assert_array_equal(backend.run(Step.of(0, 0, tokens))[0], expected_logits(tokens))
    with pytest.raises(InferenceFailed, match=r"ends at position 41 of a slot that holds 40$"):
        backend.run(Step.of(0, CAPACITY, [1]))
    np.testing.assert_array_equal(
        backend.run(Step.of(0, 39, [2]))[0], expected_logits([7] * 39 + [2])
    )


def test_a_step_cannot_continue_what_the_slot_does_not_hold(artifact: Path) -> None:
    backend = open_cpu(artifact, slots=2)
    backend.run(Step.of(0, 0, [1, 2, 3]))
    with pytest.raises(InferenceFailed, match=r"continues at position 2 of a slot that holds 0$"):
        backend.run(Step.of(1, 2, [1]))
    np.testing.assert_array_equal(backend.run(Step.of(0, 3, [4]))[0], expected_logits([1, 2, 3, 4]))


def test_a_step_that_fails_leaves_the_past_it_was_to_continue(artifact: Path) -> None:
    backend, unknown = open_cpu(artifact), [VOCAB]  # the graph knows no such token
    backend.run(Step.of(0, 0, [1, 2, 3]))
    with pytest.raises(InferenceFailed, match="failed in ONNX Runtime"):
        backend.run(Step.of(0, 3, unknown))
    np.testing.assert_array_equal(backend.run(Step.of(0, 3, [4]))[0], expected_logits([1, 2, 3, 4]))
    with pytest.raises(InferenceFailed, match="failed in ONNX Runtime"):
        backend.run(Step.of(0, 1, unknown))
    with pytest.raises(InferenceFailed, match="continues at position 4 of a slot that holds 1"):
        backend.run(Step.of(0, 4, [5]))
    np.testing.assert_array_equal(backend.run(Step.of(0, 1, [6]))[0], expected_logits([1, 6]))


def test_a_cache_that_fits_nowhere(artifact: Path) -> None:
    with pytest.raises(OutOfMemory, match="the KV cache needs"):
        open_backend(Artifact.open(artifact), slots=1, context=CAPACITY, budget=CAPACITY)
    opened = Artifact.open(artifact)
    session = open_session(opened.file("graph"), HostDevice())
    with pytest.raises(OutOfMemory, match="the KV cache needs"):
        DynamicBackend(opened, session, CachePlan(opened.manifest.cache, 1, 1 << 50, 0, 1))


def _with_stranger(model: ir.Model) -> None:
    model.graph.inputs.append(_value("token_type_ids", ir.DataType.INT64, ["batch", "new"]))


def _without_present(model: ir.Model) -> None:
    model.graph.outputs.pop()


def _without_cache(model: ir.Model) -> None:
    for number, value in enumerate(model.graph.inputs[3:]):
        value.name = f"cache_{number}"


def _flat_cache(model: ir.Model) -> None:
    model.graph.inputs[3].shape = ir.Shape(["batch", "past", 6])


def _nameless_heads(model: ir.Model) -> None:
    model.graph.inputs[3].shape = ir.Shape(["batch", "heads", "past", 3])


def _two_logits(model: ir.Model) -> None:
    for node in model.graph:
        if node.op_type == "Constant" and node.outputs[0].name == "scale":
            twice = np.ones((1, 2, VOCAB), np.float32)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(twice))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_with_stranger, "has an input 'token_type_ids' of no known meaning$"),
        (_without_present, r"lacks the output 'present\.0\.value'$"),
        (_without_cache, "has no cache$"),
        (_flat_cache, "ONNX Runtime cannot load the graph"),
        (_nameless_heads, r"past_key_values\.0\.key is tensor\(float\) of .*'heads'"),
        (_two_logits, "its logits are not those of one token$"),
    ],
)
def test_graphs_of_another_kind_are_refused(
    tmp_path: Path, damage: Callable[[ir.Model], None], message: str
) -> None:
    model = adding_graph()
    damage(model)
    with pytest.raises(ArtifactError, match=message) as error:
        open_cpu(write_artifact(tmp_path, model))
    assert str(tmp_path / "model.onnx") in str(error.value)


def test_a_cache_larger_than_the_manifest_says_is_refused(artifact: Path, tmp_path: Path) -> None:
    written = write_artifact(tmp_path, adding_graph())
    text = (written / MANIFEST_NAME).read_text()
    (written / MANIFEST_NAME).write_text(
        text.replace('"head_dim":3,"dtype"', '"head_dim":2,"dtype"')
    )
    with pytest.raises(
        ArtifactError, match="needs 44 bytes of cache a token, its manifest says 32"
    ):
        open_cpu(written)


def _value(name: str, dtype: ir.DataType, dims: list[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))


def _cache(name: str, positions: str, heads: int, width: int) -> ir.Value:
    return _value(name, ir.DataType.FLOAT, ["batch", heads, positions, width])


def _become(value: ir.Value, other: ir.Value) -> None:
    value.name, value.type, value.shape = other.name, other.type, other.shape


def _constant(tape: ir.tape.Tape, content: object) -> ir.Value:
    array = np.asarray(content)
    array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
    return tape.op("Constant", [], {"value": ir.tensor(array)})


def _cast(tape: ir.tape.Tape, value: ir.Value) -> ir.Value:
    return tape.op("Cast", [value], {"to": int(ir.DataType.FLOAT)})


def _known(tape: ir.tape.Tape, ids: ir.Value) -> ir.Value:
    """Look each id up among those there are, which fails for others."""
    return tape.op("Gather", [_constant(tape, np.arange(VOCAB)), ids])


def _entry(file: Path, role: str) -> FileEntry:
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry.model_validate(
        {"role": role, "path": file.name, "size": len(content), "sha256": digest}
    )
