"""Engines built for real, without a GPU: what is accepted, what is refused, and what it says."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.tape import Tape
from support.engines import require_engine_builder

from rbee_export.engine_builder import EngineInfo, Profile, build_engine
from rbee_export.errors import CheckpointError, ExportError, UnsupportedModel
from rbee_export.tensorrt_library import choose

VOCAB, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 32, 4, 2, 16, 64


def attention_graph(
    path: Path,
    dtype: ir.DataType = ir.DataType.FLOAT16,
    attributes: dict[str, float] | None = None,
    *,
    integers: bool = False,
) -> Path:
    """Write one attention layer in the standard dialect's inputs and outputs.

    Args:
        path: Where to.
        dtype: What it computes in.
        attributes: Of its attention.
        integers: Look up integers, and turn those into numbers.
    """
    tape = Tape()
    initializers: list[ir.Value] = []

    def constant(name: str, array: np.ndarray) -> ir.Value:
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        initializers.append(value)
        return value

    def put(name: str, kind: ir.DataType, *shape: int | str) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))

    ids = put("input_ids", ir.DataType.INT64, "batch", "sequence")
    write = put("write_indices", ir.DataType.INT64, "batch")
    filled = put("nonpad_kv_seqlen", ir.DataType.INT64, "batch")
    cache = ("batch", KV_HEADS, "capacity", HEAD_DIM)
    past = [put(f"past_{kv}.0", dtype, *cache) for kv in ("key", "value")]

    width = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    table = np.random.default_rng(0).integers(-2, 3, (VOCAB, width)).astype(np.int8)
    if integers:
        looked_up = tape.op("Gather", [constant("embedding", table), ids])
        x = tape.op("Cast", [looked_up], {"to": dtype})
    else:
        x = tape.op("Gather", [constant("embedding", table.astype(dtype.numpy())), ids])
    sizes = np.array([HEADS, KV_HEADS, KV_HEADS], np.int64) * HEAD_DIM
    parts = tape.op_multi_out("Split", [x, constant("sizes", sizes)], {"axis": -1}, num_outputs=3)
    q, k, v = (
        tape.op(
            "Transpose",
            [tape.op("Reshape", [part, constant(f"heads.{i}", np.array([0, 0, n, HEAD_DIM]))])],
            {"perm": [0, 2, 1, 3]},
        )
        for i, (part, n) in enumerate(zip(parts, (HEADS, KV_HEADS, KV_HEADS), strict=True))
    )
    present = []
    for name, old, new in zip(("key", "value"), past, (k, v), strict=True):
        value = tape.op("TensorScatter", [old, new, write], {"axis": 2})
        value.name, value.dtype, value.shape = f"present_{name}.0", dtype, ir.Shape(cache)
        present.append(value)
    attended = tape.op(
        "Attention",
        [q, *present, None, None, None, filled],
        attributes or {},
        name="layers.0.attention",
    )
    flat = tape.op(
        "Reshape",
        [
            tape.op("Transpose", [attended], {"perm": [0, 2, 1, 3]}),
            constant("flat", np.array([0, -1])),
        ],
    )
    logits = tape.op("Cast", [flat], {"to": ir.DataType.FLOAT})
    logits.name, logits.dtype = "logits", ir.DataType.FLOAT
    logits.shape = ir.Shape(["batch", None])
    graph = ir.Graph(
        [ids, write, filled, *past],
        [logits, *present],
        nodes=tape.nodes,
        initializers=initializers,
        opset_imports={"": 24},
    )
    metadata = {"family": "llama", "context_length": str(CONTEXT)}
    ir.save(
        ir.Model(graph, ir_version=11, metadata_props=metadata), path, external_data="graph.data"
    )
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return attention_graph(tmp_path / "model.onnx")


@pytest.fixture
def rtx() -> None:
    require_engine_builder()


@pytest.fixture(autouse=True)
def no_gpu(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))


def say_gpu(capability: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a driver's query program on the path that knows one GPU."""
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho {capability}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT])
def test_an_engine_says_what_it_was_built_for(tmp_path: Path, dtype: ir.DataType) -> None:
    graph = attention_graph(tmp_path / "model.onnx", dtype)
    target = tmp_path / "engine"
    info = build_engine(graph, target, arch="sm89", max_batch=3, max_len=48)
    assert info == EngineInfo(
        library="tensorrt_rtx",
        version=sys.modules["tensorrt_rtx"].__version__,
        arch="SM89",
        cache_dtype=str(dtype.numpy()),
        max_len=48,
        profiles=(
            Profile(batch=(1, 1), sequence=(1, 48), usual=(1, 48)),
            Profile(batch=(1, 3), sequence=(1, 1), usual=(3, 1)),
        ),
    )
    assert target.stat().st_size > 10_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["engine", "graph.data", "model.onnx"]


@pytest.mark.usefixtures("rtx")
def test_progress_runs_to_the_end_of_every_phase(graph: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    build_engine(
        graph,
        tmp_path / "engine",
        arch="SM89",
        max_batch=1,
        max_len=32,
        progress=lambda *step: told.append(step),
    )
    last = {phase: (done, total) for phase, done, total in told}
    assert all(done == total for done, total in last.values())
    assert all(0 <= done <= total for _, done, total in told)
    assert len(last) > 3


@pytest.mark.usefixtures("rtx")
def test_a_build_stops_where_progress_raises(graph: Path, tmp_path: Path) -> None:
    target = tmp_path / "engine"
    target.write_bytes(b"the engine of yesterday")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(graph, target, arch="SM89", max_batch=1, max_len=32, progress=interrupt)
    assert target.read_bytes() == b"the engine of yesterday"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("rtx")
def test_a_full_disk_leaves_nothing_behind(graph: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            build_engine(graph, tmp_path / "engine", arch="SM89", max_batch=1, max_len=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graph.data", "model.onnx"]


@pytest.mark.usefixtures("rtx")
def test_a_failed_build_says_why(tmp_path: Path) -> None:
    """TensorRT reads a table of integers, but makes nothing of it."""
    graph = attention_graph(tmp_path / "model.onnx", integers=True)
    with pytest.raises(ExportError, match=r"^llama: no engine for SM89: .*Quantized constant"):
        build_engine(graph, tmp_path / "engine", arch="SM89", max_batch=1, max_len=32)
    assert not (tmp_path / "engine").exists()


@pytest.mark.usefixtures("rtx")
@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_timings_are_kept_from_build_to_build(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library that has timings needs a GPU: the other one, under its name, stands in for it."""
    say_gpu("8.9", tmp_path, monkeypatch)
    (tmp_path / "tensorrt.py").write_text(
        "from tensorrt_rtx import *\nfrom tensorrt_rtx import __version__\n"
    )
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    timings = tmp_path / "timings"
    timings.write_bytes(b"of another version")
    for _ in range(2):
        info = build_engine(
            graph, tmp_path / "engine", max_batch=1, max_len=32, timing_cache=timings
        )
        assert (info.library, info.arch) == ("tensorrt", "SM89")
        assert timings.stat().st_size > 100
    monkeypatch.delitem(sys.modules, "tensorrt")


@pytest.mark.usefixtures("rtx")
def test_a_refused_operator_is_named(tmp_path: Path) -> None:
    graph = attention_graph(tmp_path / "model.onnx", attributes={"softcap": 30.0})
    with pytest.raises(UnsupportedModel) as refusal:
        build_engine(graph, tmp_path / "engine", arch="SM89", max_batch=1, max_len=32)
    text = str(refusal.value)
    assert text.startswith("llama: TensorRT refuses Attention layers.0.attention: ")
    assert "softcap" in text
    assert "\n" not in text
    assert not (tmp_path / "engine").exists()


@pytest.mark.usefixtures("rtx")
def test_an_unknown_architecture_lists_those_known(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"SM90: unknown .* builds for SM75, .*SM89"):
        build_engine(graph, tmp_path / "engine", arch="SM90", max_batch=1, max_len=32)


@pytest.mark.parametrize("name", ["ada", "89", "SM", "SM89; rm"])
def test_a_name_that_is_no_architecture(graph: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match="not a GPU architecture; they are named like SM89"):
        build_engine(graph, tmp_path / "engine", arch=name, max_batch=1, max_len=32)


def test_without_a_gpu_an_architecture_must_be_named(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no NVIDIA GPU here .* --gpu-arch"):
        build_engine(graph, tmp_path / "engine", max_batch=1, max_len=32)


def test_the_missing_package_is_named(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(ExportError, match=r"pip install 'onnx-worker-rbee\[tensorrt-rtx\]'"):
        build_engine(graph, tmp_path / "engine", arch="SM89", max_batch=1, max_len=32)


def test_the_package_for_the_gpu_at_hand_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_gpu("9.0", tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(ExportError, match=r"builds for SM90; .*\[tensorrt\]'"):
        choose(None)


@pytest.mark.parametrize(("arch", "library"), [(None, "tensorrt"), ("SM86", "tensorrt_rtx")])
def test_the_gpu_at_hand_is_built_for_by_its_own_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str | None, library: str
) -> None:
    say_gpu("9.0", tmp_path, monkeypatch)
    for name in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / f"{name}.py").write_text(
            "import enum\n__version__ = '99'\nclass ComputeCapability(enum.Enum):\n    SM86 = 1\n"
        )
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    chosen, target = choose(arch)
    assert (chosen.name, chosen.version, target) == (library, "99", arch or "SM90")


def test_a_package_that_does_not_load_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: not found')\n")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExportError, match=r"tensorrt is installed, .* libnvinfer.so.11: not found"):
        choose("SM89")


@pytest.mark.usefixtures("rtx")
def test_bfloat16_is_not_built_where_there_is_none(tmp_path: Path) -> None:
    graph = attention_graph(tmp_path / "model.onnx", ir.DataType.BFLOAT16)
    with pytest.raises(ExportError, match="SM75 has no bfloat16; export with --precision fp16"):
        build_engine(graph, tmp_path / "engine", arch="SM75", max_batch=1, max_len=32)


@pytest.mark.parametrize(
    ("max_batch", "max_len", "complaint"),
    [
        (0, 32, "must be at least 1"),
        (1, 0, "must be at least 1"),
        (1, CONTEXT + 1, f"--max-len {CONTEXT + 1}: the model was made for {CONTEXT} positions"),
        (1, 33, "--max-len 33: must be a multiple of 4 for this model"),
    ],
)
def test_limits_that_do_not_fit(
    graph: Path, tmp_path: Path, max_batch: int, max_len: int, complaint: str
) -> None:
    with pytest.raises(ExportError, match=complaint):
        build_engine(graph, tmp_path / "engine", arch="SM89", max_batch=max_batch, max_len=max_len)


def test_files_that_are_no_such_graph(tmp_path: Path) -> None:
    garbage = tmp_path / "model.onnx"
    garbage.write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=r"model\.onnx: not an ONNX graph"):
        build_engine(garbage, tmp_path / "engine", arch="SM89", max_batch=1, max_len=32)
    other = ir.Graph([], [], nodes=[], opset_imports={"": 24})
    ir.save(ir.Model(other, ir_version=11), garbage)
    with pytest.raises(CheckpointError, match=r"model\.onnx: not a graph of the standard dialect"):
        build_engine(garbage, tmp_path / "engine", arch="SM89", max_batch=1, max_len=32)
    with pytest.raises(FileNotFoundError):
        build_engine(tmp_path / "none", tmp_path / "engine", arch="SM89", max_batch=1, max_len=32)
