"""Views of device memory take parts as NumPy does, and copies between them are the right bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cuda_on_host import CudaOnHost
from support.fake_cuda_library import FakeCuda

from rbee_runtime.device.cuda_array import CudaArray, strips

Key = tuple[int | slice, ...]


@st.composite
def parts(draw: st.DrawFn) -> tuple[tuple[int, ...], Key, Key]:
    """Return a shape, and two parts of it that have one shape."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=6)))
    keys: list[Key] = [(), ()]
    for size in shape:
        if draw(st.booleans()):
            keys = [(*key, draw(st.integers(0, size - 1))) for key in keys]
            continue
        length = draw(st.integers(0, size))
        starts = [draw(st.integers(0, size - length)) for _ in keys]
        keys = [(*key, slice(at, at + length)) for key, at in zip(keys, starts, strict=True)]
    return shape, keys[0], keys[1]


@given(case=parts(), dtype=st.sampled_from(["float16", "float32", "bool", "int64"]))
@settings(max_examples=300, deadline=None)
def test_any_part_is_copied_as_numpy_would(
    case: tuple[tuple[int, ...], Key, Key], dtype: str
) -> None:
    shape, to, of = case
    device = CudaOnHost(FakeCuda())
    numbers = np.random.default_rng(1).integers(0, 2, (2, *shape)).astype(dtype)
    arrays = [device.zeros(shape, dtype) for _ in range(2)]
    for array, values in zip(arrays, numbers, strict=True):
        device.write(array, values)
    device.copy(arrays[0][to], arrays[1][of])
    numbers[0][to] = numbers[1][of]
    got = np.empty(shape, dtype)
    device.read(arrays[0], got)
    np.testing.assert_array_equal(got, numbers[0])
    assert arrays[0][to].shape == numbers[0][to].shape


def test_a_span_of_a_cache_is_one_copy() -> None:
    cache = CudaArray.of(0, (32, 2, 16, 8, 4096, 128), "bfloat16")
    block = CudaArray.of(1 << 40, (32, 2, 8, 32, 128), "bfloat16")
    (strip,) = strips(block, cache[:, :, 3, :, 64:96])
    assert (strip.width, strip.rows, strip.slices) == (32 * 128 * 2, 8, 64)


@pytest.mark.parametrize("key", [5, slice(0, 4, 2), (0, 0, 0)])
def test_other_parts_are_refused(key: int | slice | Key) -> None:
    with pytest.raises(IndexError):
        CudaArray.of(0, (5, 2), "int64")[key]


def test_views_that_differ_are_not_copied() -> None:
    with pytest.raises(ValueError, match="cannot be copied"):
        strips(CudaArray.of(0, (2,), "int64"), CudaArray.of(0, (2,), "float64"))
