"""Where the native kernels keep their weights."""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import psutil
import pytest
from numpy.typing import NDArray
from support.factored import GROUP, TABLES, factored, in_halves, of_a_table, of_six_bits
from support.native import model, needs_kernels, session

from rbee_export.dialect.functions import block_product
from rbee_export.dialect.ort import OPSET

MB = 1 << 20
OUTPUTS, INPUTS, BLOCK = 2048, 2048, 32
WEIGHTS = OUTPUTS * INPUTS * 18 // 32
"""Bytes of a product's weights as the kernels pack them: 4 bits, and 16 for each block's scale."""

TAKEN_AT_ONCE = 64 * MB


@pytest.fixture
def product() -> ir.Model:
    rng = np.random.default_rng(0)
    blocks = INPUTS // BLOCK
    return model(
        "MatMulNBits",
        {"x": np.zeros((1, INPUTS), np.float32)},
        {
            "integers": rng.integers(0, 256, (OUTPUTS, blocks, BLOCK // 2), np.uint8),
            "scales": np.full((OUTPUTS, blocks), 2.0**-6, np.float32),
        },
        {"N": OUTPUTS, "K": INPUTS, "bits": 4, "block_size": BLOCK, "accuracy_level": 4},
    )


def resident() -> int:
    """Return bytes of this process's memory that are in use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    rss: int = psutil.Process().memory_info().rss
    return rss


def in_large_pages() -> int:
    """Return bytes of this process's memory that are in pages of 2 MB."""
    gc.collect()
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    found = re.search(r"AnonHugePages: +(\d+) kB", rollup)
    return int(found[1]) * 1024 if found else 0


def gives_large_pages() -> bool:
    """Return whether the system has such pages, by asking for some."""
    with mmap.mmap(-1, 8 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as asked:
        try:
            before = in_large_pages()
            asked.madvise(mmap.MADV_HUGEPAGE)
            asked.write(bytes(8 * MB))
            return in_large_pages() > before
        except OSError:  # the system was built without them, or does not tell
            return False


@needs_kernels
@pytest.mark.skipif(not gives_large_pages(), reason="the system gives no pages of 2 MB")
def test_weights_are_in_large_pages_that_matrices_share(product: ir.Model) -> None:
    before = in_large_pages()
    sessions = [session(product, native=True) for _ in range(4)]
    assert in_large_pages() - before >= len(sessions) * WEIGHTS - 2 * MB
    del sessions


@needs_kernels
def test_what_is_closed_leaves_its_neighbours_their_weights(product: ir.Model) -> None:
    x = np.random.default_rng(1).standard_normal((1, INPUTS), np.float32)
    alone = run(session(product, native=True), x)
    first, second = session(product, native=True), session(product, native=True)
    del first
    gc.collect()
    assert np.array_equal(run(second, x), alone)


@needs_kernels
def test_memory_of_weights_is_given_back(product: ir.Model) -> None:
    """But for the rest of the address space taken at once, which what is still open may share."""
    still_open = session(product, native=True)
    before = psutil.Process().memory_info().rss
    for _ in range(80):
        session(product, native=True)
    assert psutil.Process().memory_info().rss - before < TAKEN_AT_ONCE + 10 * WEIGHTS
    del still_open


@needs_kernels
@pytest.mark.parametrize(
    ("bits", "block", "middle", "products"),
    [
        pytest.param(4, 32, 8, False, id="Q4_1"),
        pytest.param(8, 32, 16, False, id="Q5_1"),
        pytest.param(4, 32, 8, True, id="Q4_K"),
        pytest.param(8, 32, 16, True, id="Q5_K"),
        pytest.param(8, 16, 2, True, id="Q2_K"),
    ],
)
def test_scales_and_minima_take_what_they_take_in_a_file(
    bits: int, block: int, middle: int, products: bool
) -> None:
    rng = np.random.default_rng(2)
    blocks = INPUTS // block
    integers = rng.integers(0, 256, (OUTPUTS, blocks, block * bits // 8), np.uint8)

    def taken(scales: NDArray[np.float32], offsets: NDArray[np.float32]) -> int:
        """Return bytes that 12 such products take, with what they come from."""
        function = block_product(OPSET, {"accuracy_level": 4})
        of = model(
            "BlockProduct",
            {"x": np.zeros((1, INPUTS), np.float32)},
            {"integers": integers, "scales": scales, "offsets": offsets},
            {"N": OUTPUTS, "K": INPUTS, "bits": bits, "block_size": block},
            function=function,
        )
        before = resident()
        opened = [session(of, native=True) for _ in range(12)]
        after = resident()
        del opened
        return after - before

    floats = [rng.uniform(-0.02, 0.02, (OUTPUTS, blocks)).astype(np.float32) for _ in range(2)]
    held = factored if products else in_halves
    less = taken(*floats) - taken(*held(rng, OUTPUTS, INPUTS, block, middle))
    # Of a block and an output, 8 bytes less 4; or less 2, and less 4 of a group.
    saved = 8 - (2 + 4 * block / GROUP if products else 4)
    assert less > 12 * 0.9 * saved * OUTPUTS * blocks


@needs_kernels
@pytest.mark.parametrize("kind", ["six", *TABLES])
def test_integers_of_fewer_bits_take_no_more(kind: str) -> None:
    rng = np.random.default_rng(3)
    blocks = INPUTS // BLOCK
    scales = np.full((OUTPUTS, blocks), 2.0**-6, np.float32)

    def taken(integers: NDArray[np.uint8]) -> int:
        """Return bytes that 12 such products take, with what they come from."""
        of = model(
            "MatMulNBits",
            {"x": np.zeros((1, INPUTS), np.float32)},
            {"integers": integers, "scales": scales},
            {"N": OUTPUTS, "K": INPUTS, "bits": 8, "block_size": BLOCK, "accuracy_level": 4},
        )
        before = resident()
        opened = [session(of, native=True) for _ in range(12)]
        after = resident()
        del opened
        return after - before

    eight = rng.integers(0, 256, (OUTPUTS, blocks, BLOCK), np.uint8)
    shape = (OUTPUTS, blocks, BLOCK)
    fewer = of_six_bits(rng, *shape) if kind == "six" else of_a_table(rng, kind, *shape)
    saved = 1 / 4 if kind == "six" else 1 / 2
    assert taken(eight) - taken(fewer) > 12 * 0.9 * OUTPUTS * INPUTS * saved


def run(opened: ort.InferenceSession, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(opened.run(None, {"x": x})[0], np.float32)
