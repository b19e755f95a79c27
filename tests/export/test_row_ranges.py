"""Weights read in ranges of rows: the same values, and little memory besides what is made."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from rbee_export import open_checkpoint
from rbee_export.blocks import BlockMatrix, quantize
from rbee_export.weights import Weights
from rbee_runtime.artifact import Precision

ROWS, COLUMNS = 300_000, 64  # several times what is read at once, for every core
CONFIG = {
    "model_type": "phi3",
    "vocab_size": ROWS,
    "hidden_size": COLUMNS,
    "intermediate_size": ROWS,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}


@pytest.fixture(scope="module")
def stored() -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(0)
    embedding = random.standard_normal((ROWS, COLUMNS), np.float32)
    fused = random.standard_normal((2 * ROWS, COLUMNS), np.float32)
    return {
        "model.embed_tokens.weight": embedding.astype(np.float16),
        "model.layers.0.mlp.gate_up_proj.weight": fused.astype(ml_dtypes.bfloat16),
    }


@pytest.fixture(scope="module")
def model(stored: dict[str, NDArray[Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wide")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    save_file(stored, directory / "model.safetensors")
    return directory


def values(name: str, stored: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    embedding, fused = (tensor.astype(np.float32) for tensor in stored.values())
    return {"embedding": embedding, "layers.0.gate": fused[:ROWS], "layers.0.up": fused[ROWS:]}[
        name
    ]


@pytest.mark.parametrize("name", ["embedding", "layers.0.gate", "layers.0.up"])
def test_ranges_make_up_the_whole(name: str, model: Path, stored: dict[str, NDArray[Any]]) -> None:
    tensor = open_checkpoint(model).tensor(name)
    expected = values(name, stored)
    parts = list(tensor.pieces())
    assert len(parts) > 1
    assert [rows.start for rows, _ in parts] == [0, *(rows.stop for rows, _ in parts[:-1])]
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), expected)
    np.testing.assert_array_equal(tensor.dense(), expected)


@pytest.mark.parametrize("precision", ["int4", "int8", "fp16", "bf16", "fp32"])
def test_a_matrix_takes_little_more_than_itself(
    precision: Precision, model: Path, stored: dict[str, NDArray[Any]]
) -> None:
    checkpoint = open_checkpoint(model)
    tracemalloc.start()
    matrix = Weights(checkpoint, precision).matrix("layers.0.up", ROWS, COLUMNS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # For each of four threads, and for what is read meanwhile: a range in float32, one as it is
    # stored, and what is worked on at once.
    assert peak < matrix.nbytes + (60 << 20)
    expected = values("layers.0.up", stored)
    if isinstance(matrix, BlockMatrix):
        whole = quantize(expected, matrix.bits)
        np.testing.assert_array_equal(matrix.packed, whole.packed)
        np.testing.assert_array_equal(matrix.scales, whole.scales)
    else:
        types = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp32": np.float32}
        np.testing.assert_array_equal(matrix, expected.astype(types[precision]))
