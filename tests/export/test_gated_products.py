"""Which operators a gated MLP becomes: one where our kernels can do it, else two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
import pytest
from support.makers import MakeFamily, MakeGguf

from rbee_bench.peers.onnx_reads import matrix_operations
from rbee_export import Options, digest, export, open_checkpoint

LAYERS = 2


def gates(
    checkpoint: Path,
    directory: Path,
    precision: Any,
    target: Literal["cpu", "cuda"] = "cpu",
) -> Mapping[str, int]:
    """Export a checkpoint, and count the operators of its graph that are gates."""
    opened = open_checkpoint(checkpoint)
    export(opened, directory, Options(precision, target=target), digest(opened.files))
    kinds = [node.op_type for node in ir.load(directory / "model.onnx").graph]
    return {kind: kinds.count(kind) for kind in kinds if kind.startswith("Gated")}


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_blocks(precision: str, tiny_llama: Path, tmp_path: Path) -> None:
    assert gates(tiny_llama, tmp_path / "made", precision) == {"GatedSiluProduct": LAYERS}


def test_another_activation(make_family: MakeFamily, tmp_path: Path) -> None:
    made = gates(make_family("gemma2"), tmp_path / "made", "int8")
    assert set(made) == {"GatedGeluProduct"}


@pytest.mark.parametrize(
    ("kind", "operator"), [("Q4_0", "GatedSiluProduct"), ("Q4_1", "GatedSiluBlockProduct")]
)
def test_blocks_of_a_gguf(kind: str, operator: str, make_gguf: MakeGguf, tmp_path: Path) -> None:
    made = gates(make_gguf(kind).path, tmp_path / "made", "gguf")
    assert made == {operator: LAYERS}


@pytest.mark.parametrize(
    ("precision", "target"), [("fp32", "cpu"), ("fp16", "cuda"), ("int8", "cuda")]
)
def test_what_our_kernels_do_not_run(
    precision: str, target: Literal["cpu", "cuda"], tiny_llama: Path, tmp_path: Path
) -> None:
    assert gates(tiny_llama, tmp_path / "made", precision, target) == {"GatedSilu": LAYERS}


def test_a_token_s_operations_are_as_many(tiny_llama: Path, tmp_path: Path) -> None:
    counts = []
    for precision, target in (("int8", "cpu"), ("int8", "cuda")):
        gates(tiny_llama, tmp_path / target, precision, "cuda" if target == "cuda" else "cpu")
        counts.append(matrix_operations(tmp_path / target / "model.onnx"))
    assert counts[0] == counts[1]


def test_a_gguf_s_matrices_of_numbers_count_as_those_in_blocks(
    make_gguf: MakeGguf, tmp_path: Path
) -> None:
    counts = []
    for kind in ("F16", "Q4_0"):
        gates(make_gguf(kind).path, tmp_path / kind, "gguf")
        counts.append(matrix_operations(tmp_path / kind / "model.onnx"))
    assert counts[0] == counts[1]
