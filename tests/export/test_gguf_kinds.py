"""Every type of GGUF's elements: what its blocks become, against the gguf package's own reading."""

from __future__ import annotations

import functools
import tracemalloc
from collections.abc import Mapping

import gguf
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from rbee_export.blocks import BlockMatrix, concatenate
from rbee_export.checkpoint.gguf_tensor import DENSE_KINDS, QUANTIZED_KINDS, GgufTensor

DESCRIPTIONS: Mapping[str, str] = {
    "Q4_0": "4-bit, blocks of 32, exact",
    "Q4_1": "4-bit, blocks of 32, offsets, exact",
    "Q5_0": "8-bit, blocks of 32, exact",
    "Q5_1": "8-bit, blocks of 32, offsets, exact",
    "Q8_0": "8-bit, blocks of 32, exact",
    "Q2_K": "8-bit, blocks of 16, offsets, exact",
    "Q3_K": "8-bit, blocks of 32, exact",
    "Q4_K": "4-bit, blocks of 32, offsets, exact",
    "Q5_K": "8-bit, blocks of 32, offsets, exact",
    "Q6_K": "8-bit, blocks of 16, exact",
    "IQ4_NL": "8-bit, blocks of 32, exact",
    "IQ4_XS": "8-bit, blocks of 32, exact",
    "MXFP4": "8-bit, blocks of 32, exact",
    **dict.fromkeys(
        (
            *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
            *("TQ1_0", "TQ2_0"),
        ),
        "8-bit, blocks of 32, rounded",
    ),
}
EXACT = [kind for kind, said in DESCRIPTIONS.items() if said.endswith("exact")]
ROUNDED = [kind for kind, said in DESCRIPTIONS.items() if said.endswith("rounded")]

HALVES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
    "MXFP4": (),
    "IQ1_M": (),
}
"""Where the float16 numbers of a block are, if not at its beginning alone."""


def random_blocks(kind: Kind, rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return rows of blocks whose bytes are random, but for scales: 0.001 to 1 in size."""
    draw = np.random.default_rng(seed)
    weights, size = GGML_QUANT_SIZES[kind]
    raw = draw.integers(0, 256, (rows, columns // weights, size), np.uint8)
    for at in HALVES.get(kind.name, (0,)):
        sign = draw.choice([-1, 1], raw.shape[:2])
        scale = (sign * 10 ** draw.uniform(-3, 0, raw.shape[:2])).astype(np.float16)
        raw[..., at : at + 2] = scale[..., None].view(np.uint8)
    if kind == Kind.MXFP4:
        raw[..., 0] = draw.integers(117, 128, raw.shape[:2])
    if kind == Kind.IQ1_M:  # its float16 is spread over four scales; this is its exponent's top
        raw[..., 55] = raw[..., 55] & 0x0F | 0x20
    return raw.reshape(rows, -1)


@functools.cache
def tensor(kind: str, rows: int = 600, columns: int = 512) -> GgufTensor:
    """Return a tensor of random blocks, large enough to be worked on in more than one part."""
    return GgufTensor((rows, columns), Kind[kind], random_blocks(Kind[kind], rows, columns))


def blocks_of(tensor: GgufTensor) -> BlockMatrix:
    blocks = tensor.blocks()
    assert blocks is not None
    assert blocks.shape == tensor.shape
    return blocks


def assert_same(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    assert ours.dtype == theirs.dtype == np.float32
    assert np.isfinite(theirs).all()
    np.testing.assert_array_equal(ours, theirs)


def test_every_type_is_here() -> None:
    assert set(DESCRIPTIONS) == {kind.name for kind in QUANTIZED_KINDS}


@pytest.mark.parametrize("kind", [*EXACT, *ROUNDED, "BF16", "F16"])
def test_dense_values_are_the_library_s(kind: str) -> None:
    if kind in ("BF16", "F16"):
        values = np.random.default_rng(1).standard_normal((600, 512), np.float32)
        stored = GgufTensor(values.shape, Kind[kind], gguf.quantize(values, Kind[kind]))
    else:
        stored = tensor(kind)
    assert stored.kind == kind
    theirs = gguf.dequantize(stored.data, Kind[kind])
    assert_same(stored.dense(), theirs)
    order = np.random.default_rng(2).permutation(600)
    again = GgufTensor(stored.shape, stored.type, stored.data, order)
    assert_same(again.dense(), theirs[order])


@pytest.mark.parametrize("kind", EXACT)
def test_any_blocks_are_kept_exactly(kind: str) -> None:
    stored = tensor(kind)
    blocks = blocks_of(stored)
    assert blocks.how == "exact"
    assert blocks.description == DESCRIPTIONS[kind]
    ours, theirs = blocks.dequantize(), gguf.dequantize(stored.data, Kind[kind])
    if blocks.offsets is None:
        assert_same(ours, theirs)
        return
    # One rounding of the offset, and one of the sum on either side.
    offsets = np.repeat(blocks.offsets, blocks.block, axis=1)
    allowed = np.spacing(np.abs(offsets)) / 2 + np.spacing(np.maximum(np.abs(ours), np.abs(theirs)))
    assert (np.abs(ours.astype(np.float64) - theirs) <= allowed).all()


@pytest.mark.parametrize("kind", EXACT)
def test_integers_lie_around_the_middle(kind: str) -> None:
    """The kernel's error grows with their distance from it."""
    q = blocks_of(tensor(kind)).elements().astype(int)
    low, high = {
        "Q2_K": (-2, 1),
        "Q3_K": (-128, 124),
        **dict.fromkeys(("Q4_0", "Q4_1", "Q4_K"), (-8, 7)),
        **dict.fromkeys(("Q5_0", "Q5_1", "Q5_K"), (-16, 15)),
        "Q6_K": (-32, 31),
        "Q8_0": (-128, 127),
        **dict.fromkeys(("IQ4_NL", "IQ4_XS"), (-127, 113)),
        "MXFP4": (-12, 12),
    }[kind]
    middle = 8 if kind in ("Q4_0", "Q4_1", "Q4_K") else 128
    assert (q.min() - middle, q.max() - middle) == (low, high)


@pytest.mark.parametrize("kind", ROUNDED)
def test_other_types_go_to_eight_bits(kind: str) -> None:
    stored = tensor(kind, 40)
    blocks = blocks_of(stored)
    assert blocks.how == "rounded"
    assert blocks.description == DESCRIPTIONS[kind]
    theirs = gguf.dequantize(stored.data, Kind[kind])
    error = blocks.dequantize() - theirs
    assert np.linalg.norm(error) < 0.005 * np.linalg.norm(theirs)


QUANTISABLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")


@pytest.mark.parametrize("kind", QUANTISABLE)
def test_what_the_library_quantises_is_kept_bit_for_bit(kind: str) -> None:
    values = np.random.default_rng(3).standard_normal((600, 480), np.float32)
    stored = GgufTensor(values.shape, Kind[kind], gguf.quantize(values, Kind[kind]))
    assert_same(blocks_of(stored).dequantize(), gguf.dequantize(stored.data, Kind[kind]))


@pytest.mark.parametrize("kind", [*EXACT, "IQ3_S"])
def test_ranges_and_orders_of_rows(kind: str) -> None:
    whole = tensor(kind)
    expected = blocks_of(whole).dequantize()
    order = np.random.default_rng(4).permutation(550)
    some = GgufTensor((550, 512), whole.type, whole.data[30:580], order)
    assert_same(blocks_of(some).dequantize(), expected[30:580][order])


def test_extreme_scales_of_q3_k_are_kept() -> None:
    """A scale of -32 and an element of -4 make 128, which an int8 cannot hold."""
    raw = np.zeros((1, 110), np.uint8)
    raw[0, 108:] = np.array([0.5], np.float16).view(np.uint8)
    stored = GgufTensor((1, 256), Kind.Q3_K, raw)
    assert_same(stored.dense(), np.full((1, 256), 64, np.float32))
    assert_same(blocks_of(stored).dequantize(), stored.dense())


@pytest.mark.parametrize("kind", [*EXACT, *ROUNDED])
@pytest.mark.filterwarnings("error")
def test_bytes_of_no_sense_are_read_in_silence(kind: str) -> None:
    weights, size = GGML_QUANT_SIZES[Kind[kind]]
    raw = np.full((2, 256 // weights * size), 0xFF, np.uint8)
    stored = GgufTensor((2, 256), Kind[kind], raw)
    assert stored.dense().shape == (2, 256)
    assert blocks_of(stored).dequantize().shape == (2, 256)


def test_what_has_no_blocks() -> None:
    dense = np.ones((2, 64), np.float32)
    assert GgufTensor((2, 64), Kind.F32, dense).blocks() is None
    assert GgufTensor((64,), Kind.Q8_0, gguf.quantize(dense[0], Kind.Q8_0)).blocks() is None
    assert set(DENSE_KINDS) == {Kind.F32, Kind.F16, Kind.BF16}
    experts = gguf.quantize(np.ones((3, 2, 64), np.float32), Kind.Q8_0)
    stored = GgufTensor((3, 2, 64), Kind.Q8_0, experts)
    assert stored.blocks() is None
    assert_same(stored.dense(), gguf.dequantize(experts, Kind.Q8_0))


def test_types_of_other_blocks_are_not_stacked() -> None:
    six, eight, three = (blocks_of(tensor(kind)) for kind in ("Q6_K", "Q8_0", "Q3_K"))
    assert concatenate([six, eight]) is None
    together = concatenate([eight, three])
    assert together is not None
    assert together.how == "exact"
    assert together.description == "8-bit, blocks of 32, exact"
    rounded = concatenate([eight, blocks_of(tensor("IQ3_S", 40))])
    assert rounded is not None
    assert rounded.how == "rounded"


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q3_K", "IQ4_XS"])
def test_memory_is_that_of_the_result(kind: str) -> None:
    stored = tensor(kind, 16384, 1024)
    tracemalloc.start()
    try:
        blocks = blocks_of(stored)
        assert tracemalloc.get_traced_memory()[1] < blocks.nbytes + (6 << 20)
        del blocks
        tracemalloc.reset_peak()
        dense = stored.dense()
        assert tracemalloc.get_traced_memory()[1] < dense.nbytes + (12 << 20)
    finally:
        tracemalloc.stop()


# What ONNX Runtime makes of them


def product(matrix: BlockMatrix) -> ort.InferenceSession:
    """Return the graph of ``x @ w.T`` that the module ``rbee_export.blocks`` describes."""
    n, k = matrix.shape
    tape = Tape()
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["rows", k]))
    initializers = []

    def constant(name: str, array: NDArray[np.generic]) -> ir.Value:
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        initializers.append(value)
        return value

    y = tape.op(
        "MatMulNBits",
        [x, constant("packed", matrix.packed), constant("scales", matrix.scales)],
        {"N": n, "K": k, "bits": matrix.bits, "block_size": matrix.block, "accuracy_level": 4},
        domain="com.microsoft",
    )
    if matrix.offsets is not None:
        cut = tape.op("Reshape", [x, constant("shape", np.array([0, -1, matrix.block]))])
        sums = tape.op("ReduceSum", [cut, constant("axis", np.array([-1]))], {"keepdims": 0})
        y = tape.op("Gemm", [sums, constant("offsets", matrix.offsets), y], {"transB": 1})
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [x],
        [y],
        nodes=tape.nodes,
        initializers=initializers,
        opset_imports={"": 21, "com.microsoft": 1},
    )
    model = ir.to_proto(ir.Model(graph, ir_version=10))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("kind", [*EXACT, "IQ3_XXS"])
def test_products_equal_those_of_the_dequantised_matrix(kind: str) -> None:
    stored = tensor(kind, 96)
    session = product(blocks_of(stored))
    weights = gguf.dequantize(stored.data, Kind[kind]).astype(np.float64)
    for rows in (1, 5, 64):
        x = np.random.default_rng(rows).standard_normal((rows, 512), np.float32)
        (ours,) = session.run(None, {"x": x})
        theirs = x.astype(np.float64) @ weights.T
        # The kernel rounds each block of activations to eight bits: half a percent.
        assert np.linalg.norm(ours - theirs) < 0.01 * np.linalg.norm(theirs)
