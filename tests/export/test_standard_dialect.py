"""The standard dialect computes what the ``ort`` one does, and TensorRT builds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from support.engines import require_engine_builder
from support.family_table import FOR_GPUS
from support.makers import MakeArtifact, MakeFamily, OpenOnce
from support.running import open_cpu, prefill, relative_error

from gpu_check.family_configs import ORIGINAL_CONTEXT, WINDOW
from rbee_export.blocks import BlockMatrix
from rbee_export.checkpoint import DecoderConfig
from rbee_export.decoder import build
from rbee_export.dialect import StandardDialect
from rbee_export.engine_builder import build_engine
from rbee_export.weights import Matrix, Weights
from rbee_export.weights_file import WeightsFile
from rbee_runtime.step import Step

LONG, SHORT, DECODED, CAPACITY = 150, 9, 4, 192
assert WINDOW < SHORT + LONG // 2
assert SHORT + DECODED < ORIGINAL_CONTEXT < LONG
IDS = np.random.default_rng(17).integers(3, 384, (2, LONG + DECODED))

SAME_GRAPH = {
    "llama-3",
    "qwen2-yarn",
    "mistral-nemo",
    "mistral-small",
    "ministral",
    "qwen2-vl",
    "qwen2.5-vl",
    "qwen3-vl",
    "olmo3",
    "exaone4",
    "exaone4-small",
    "seed-oss",
    "ernie4.5",
    "glm",
    "glm4",
    "helium",
    "cohere2",
    "starcoder2",
    "starcoder2-window",
    "stablelm",
    "stablelm-parallel",
    "nemotron",
    "gemma2-27b",
    "gemma3-renamed",
    "gemma3-text",
}
"""Have operators that others have, too: an engine of them shows nothing new."""


@dataclass
class Graph:
    """A graph of the standard dialect, run with a cache of its own.

    Attributes:
        path: The graph.
        config: What it was made of.
        dtype: NumPy's name for the type it computes in.
    """

    path: Path
    config: DecoderConfig
    dtype: str
    cache: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def start(self, rows: int) -> None:
        """Open the graph, with nothing in the cache of so many rows."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        shape = (rows, self.config.kv_heads, CAPACITY, self.config.head_dim)
        self.cache = {
            f"{kind}.{layer}": np.zeros(shape, self.dtype)
            for layer in range(self.config.layers)
            for kind in ("key", "value")
        }

    def step(
        self, rows: slice, ids: NDArray[np.int64], past: Sequence[int], lengths: Sequence[int]
    ) -> NDArray[np.float32]:
        """Run ``ids[B, S]`` in some rows of the cache; return logits ``[B, vocab]``.

        Args:
            rows: Where to.
            ids: The tokens.
            past: Positions each row has.
            lengths: Positions each row will have in the end.
        """
        count = ids.shape[1]
        before = np.asarray(past, np.int64)
        inputs = {"input_ids": ids, "write_indices": before, "nonpad_kv_seqlen": before + count}
        original = self.config.long_rope_from
        if original is not None:
            shift = np.where(np.asarray(lengths) > original, original, 0)
            inputs["position_ids"] = (before + shift)[:, None] + np.arange(count)
        inputs |= {f"past_{name}": values[rows] for name, values in self.cache.items()}
        names = [f"present_{name}" for name in self.cache]
        logits, *present = self._session.run(["logits", *names], inputs)
        for values, new in zip(self.cache.values(), present, strict=True):
            values[rows] = new
        return np.asarray(logits, np.float32)


def make_graph(
    directory: Path,
    weights: Weights,
    dtype: ir.DataType = ir.DataType.FLOAT,
    config: DecoderConfig | None = None,
) -> Graph:
    directory.mkdir(exist_ok=True)
    config = config or weights.checkpoint.config
    with WeightsFile(directory / "model.onnx.data") as file:
        ops = StandardDialect(config, weights, file, dtype)
        build(ops, config)
        ir.save(ops.model("test"), directory / "model.onnx")
    return Graph(directory / "model.onnx", config, str(np.dtype(dtype.numpy())))


def run_both_rows(graph: Graph, chunk: int) -> NDArray[np.float32]:
    """Prefill a long and a short prompt, then decode them together.

    Returns:
        Logits after each prompt and each token, ``float32[1 + DECODED, 2, vocab]``.
    """
    prompts, ends = (LONG, SHORT), (LONG + DECODED, SHORT + DECODED)
    graph.start(2)
    first = []
    for row, prompt in enumerate(prompts):
        for past in range(0, prompt, chunk):
            ids = IDS[row : row + 1, past : min(past + chunk, prompt)]
            logits = graph.step(slice(row, row + 1), ids, [past], [ends[row]])
        first.append(logits[0])
    steps = [np.stack(first)]
    for i in range(DECODED):
        past = [prompt + i for prompt in prompts]
        ids = np.stack([IDS[row, at : at + 1] for row, at in enumerate(past)])
        steps.append(graph.step(slice(0, 2), ids, past, ends))
    return np.stack(steps)


@pytest.mark.parametrize("name", FOR_GPUS)
def test_logits_are_those_of_the_ort_dialect(
    name: str,
    make_family: MakeFamily,
    make_artifact: MakeArtifact,
    open_once: OpenOnce,
    tmp_path: Path,
) -> None:
    checkpoint = make_family(name)
    backend = open_cpu(make_artifact(checkpoint, "fp32"))
    theirs = []
    for row, prompt in enumerate((LONG, SHORT)):
        ids, end = IDS[row].tolist(), prompt + DECODED
        theirs.append([prefill(backend, ids[:prompt], length=end)])
        for past in range(prompt, end):
            theirs[-1].append(backend.run(Step.of(0, past, ids[past : past + 1], end))[0].copy())
    graph = make_graph(tmp_path, Weights(open_once(checkpoint), "fp32"))
    ours = run_both_rows(graph, chunk=67)
    np.testing.assert_allclose(ours, np.stack(theirs, axis=1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "phi", "gemma2", "olmo2"])
def test_half_precision_keeps_close(
    name: str, make_family: MakeFamily, open_once: OpenOnce, tmp_path: Path
) -> None:
    weights = Weights(open_once(make_family(name)), "fp32")
    exact = run_both_rows(make_graph(tmp_path / "fp32", weights), chunk=LONG)
    half = make_graph(tmp_path / "fp16", weights, ir.DataType.FLOAT16)
    assert half.dtype == "float16"
    rounded = run_both_rows(half, chunk=LONG)
    assert 0 < relative_error(rounded, exact) < 0.01


class Blocks(NamedTuple):
    """A way to quantise.

    Attributes:
        bits: Of an element.
        block: Elements that share a scale.
        offsets: Whether blocks have them.
    """

    bits: Literal[4, 8]
    block: int
    offsets: bool


EIGHT_BITS = Blocks(8, 32, False)


@dataclass(frozen=True)
class RandomBlocks(Weights):
    """Weights whose matrices are random blocks, or what those stand for.

    Attributes:
        how: The kind of blocks.
        spelt_out: Give what they stand for.
    """

    how: Blocks = EIGHT_BITS
    spelt_out: bool = False

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        bits, block, offsets = self.how
        random = np.random.default_rng(sum(name.encode()))
        shape = (rows, columns // block)
        # As they come: GGUF's four-bit blocks have scales of either sign, and empty ones none.
        signs = random.choice([-1.0, 0.0, 1.0], shape, p=[0.45, 0.1, 0.45])
        matrix = BlockMatrix(
            bits,
            random.integers(0, 256, (*shape, block * bits // 8), np.uint8),
            (random.uniform(0.5, 1.0, shape) * signs * 0.4 / 2**bits).astype(np.float32),
            (random.standard_normal(shape) * 0.05).astype(np.float32) if offsets else None,
        )
        return matrix.dequantize() if self.spelt_out else matrix


@pytest.mark.parametrize(
    "how",
    [
        Blocks(4, 32, False),
        Blocks(4, 32, True),
        Blocks(4, 16, True),
        EIGHT_BITS,
        Blocks(8, 16, True),
    ],
    ids=str,
)
def test_blocks_mean_what_they_stand_for(
    how: Blocks, make_family: MakeFamily, open_once: OpenOnce, tmp_path: Path
) -> None:
    checkpoint = open_once(make_family("llama-biases"))
    blocks, spelt_out = (
        run_both_rows(
            make_graph(
                tmp_path / str(spelt_out),
                RandomBlocks(checkpoint, "int8", how=how, spelt_out=spelt_out),
            ),
            chunk=LONG,
        )
        for spelt_out in (False, True)
    )
    assert np.abs(spelt_out).max() > 1
    np.testing.assert_allclose(blocks, spelt_out, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [name for name in FOR_GPUS if name not in SAME_GRAPH])
def test_tensorrt_builds_every_family(
    name: str, make_family: MakeFamily, open_once: OpenOnce, tmp_path: Path
) -> None:
    require_engine_builder()
    weights = Weights(open_once(make_family(name)), "bf16")
    # One layer of each kind.
    kinds = tuple(dict.fromkeys(weights.checkpoint.config.attention))
    config = replace(weights.checkpoint.config, attention=kinds, layers=len(kinds))
    graph = make_graph(tmp_path, weights, ir.DataType.BFLOAT16, config)
    info = build_engine(graph.path, tmp_path / "engine", arch="SM89", max_batch=2, max_len=CAPACITY)
    assert info.cache_dtype == "bfloat16"
    assert len(info.profiles) == 2


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16], ids=str)
@pytest.mark.parametrize("how", [Blocks(4, 16, True), EIGHT_BITS], ids=str)
def test_tensorrt_builds_blocks(
    how: Blocks, dtype: ir.DataType, make_family: MakeFamily, open_once: OpenOnce, tmp_path: Path
) -> None:
    require_engine_builder()
    weights = RandomBlocks(open_once(make_family("llama")), "int8", how=how)
    graph = make_graph(tmp_path, weights, dtype)
    info = build_engine(graph.path, tmp_path / "engine", arch="SM89", max_batch=2, max_len=CAPACITY)
    (profile,) = info.profiles
    assert (profile.batch, profile.sequence) == ((1, 2), (1, CAPACITY))
