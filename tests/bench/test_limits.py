from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from rich.console import Console

from rbee_bench import limits as module
from rbee_bench.limits import Limits, MemoryReader, decode_ceiling, largest_cache
from rbee_bench.peers import PeerProcess, Reads, Spec
from rbee_bench.peers.onnx_reads import weight_bytes
from rbee_bench.report import limits_report
from rbee_runtime import Artifact
from rbee_runtime.backend import host_cache


def test_a_token_reads_the_weights_and_the_positions_before_it() -> None:
    reads = Reads(weights=1_000_000, position=1000, operations=0, arithmetic="int8")
    # Tokens 2, 3 and 4 of the completion attend to 11, 12 and 13 positions: 12 on average.
    assert decode_ceiling(reads, 10, 4, 1_012_000_000.0) == pytest.approx(1000.0)
    assert decode_ceiling(Reads(500, 0, 0, "int8"), 8000, 100, 1e6) == pytest.approx(2000.0)


def test_memory_is_read_at_a_rate_that_memory_can_have() -> None:
    # Slower than a disk or faster than any memory would be a mistake in the arithmetic.
    assert 1e8 < MemoryReader(2).read() < 1e13


def test_what_is_read_fits_into_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "largest_cache", lambda: 70 << 20)
    assert MemoryReader(2).nbytes == 280 << 20


@pytest.mark.parametrize("place", range(4))
def test_the_largest_cache_is_found(place: int, tmp_path: Path) -> None:
    assert largest_cache(tmp_path) == 0
    sizes = ["48K", "2048K", "1024K"]
    sizes.insert(place, "32M")
    for number, size in enumerate(sizes):
        cache = tmp_path / f"index{number}"
        cache.mkdir()
        (cache / "size").write_text(f"{size}\n")
    assert largest_cache(tmp_path) == 32 << 20


def test_an_artifact_reads_its_products_and_not_its_embedding(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    artifact = Artifact.open(tiny_artifact)
    manifest = artifact.manifest
    held = {group.name: group.nbytes for group in manifest.weights}
    with PeerProcess(Spec("compiled", "ours", tiny_artifact, 0, 1, tmp_path)) as peer:
        reads = peer.reads()
    assert reads is not None
    shapes = manifest.shapes
    element = 2 if host_cache(artifact).dtype == "float16" else 4
    assert reads.position == 2 * shapes.layers * shapes.kv_heads * shapes.head_dim * element
    expected = sum(held.values()) - held["embedding"]
    assert expected <= reads.weights < expected + 1000


def test_what_is_picked_from_counts_only_if_something_reads_all_of_it(tmp_path: Path) -> None:
    both, rows = (
        ir.Value(name=name, const_value=ir.tensor(np.ones((8, 4), np.float32), name=name))
        for name in ("both", "rows")
    )
    ids = ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([1]))
    first = ir.node("Gather", [both, ids])
    second = ir.node("Gather", [rows, ids])
    product = ir.node("MatMul", [both, first.outputs[0]])
    outputs = [second.outputs[0], product.outputs[0]]
    graph = ir.Graph(
        [ids],
        outputs,
        nodes=[first, second, product],
        initializers=[both, rows],
        opset_imports={"": 21},
    )
    for number, node in enumerate(graph):
        node.outputs[0].name = f"value-{number}"
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    assert weight_bytes(tmp_path / "model.onnx") == 8 * 4 * 4


def test_the_report_gives_the_best_of_the_rounds() -> None:
    console = Console(file=io.StringIO(), width=120)
    limits = Limits(2, (9e9, 10e9, 10e9), (100e9, 100e9), (400e9, 200e9), 0.0)
    console.print(limits_report(limits))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "10.0 GB/s" in text
    assert "400 GOP/s" in text
    assert "too noisy to say: int8 33% spread" in text
