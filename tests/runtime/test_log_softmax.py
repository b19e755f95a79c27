"""Log probabilities from logits: in NumPy and natively, beside float64."""

from __future__ import annotations

import os
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.native import VARIANTS, needs_kernels, usable

from rbee_runtime.kernels.log_softmax import native_log_softmax
from rbee_runtime.log_softmax import LogSoftmax, Measure, log_softmax

MEASURES = {"numpy": log_softmax} if usable() else {"numpy": log_softmax, "native": None}


def measure(name: str) -> Measure:
    return MEASURES[name] or native_log_softmax()


def check(found: LogSoftmax, logits: NDArray[np.float32], top: int) -> None:
    exact = logits.astype(np.float64)
    exact -= exact.max() + np.log(np.exp(exact - exact.max()).sum())
    order = np.lexsort((np.arange(logits.size), -logits))[:top]
    assert found.likeliest == order.tolist()
    whole = float(logits.max()) - float(exact.max())
    assert abs(found.whole - whole) < 1e-5
    np.testing.assert_allclose(found.values, exact[order], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MEASURES)
@given(
    size=st.one_of(st.integers(1, 40), st.integers(500, 530), st.sampled_from([9000, 12_000])),
    seed=st.integers(0, 2**32 - 1),
    impossible=st.floats(0.0, 1.0),
)
@settings(max_examples=100, deadline=None)
def test_they_are_those_of_float64(name: str, size: int, seed: int, impossible: float) -> None:
    random = np.random.default_rng(seed)
    # Quarters tie often.
    logits = np.rint(random.normal(0, 10, size)).astype(np.float32) / np.float32(4)
    logits[random.random(size) < impossible] = random.choice([-np.inf, -1e30])
    logits[random.integers(size)] = random.choice([0.0, 20.0, 200.0])
    top = int(random.integers(min(20, size) + 1))
    before = logits.copy()
    check(measure(name)(logits, top), logits, top)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
def test_a_whole_vocabulary(name: str, scale: float) -> None:
    logits = (scale * np.random.default_rng(1).standard_normal(151_936)).astype(np.float32)
    check(measure(name)(logits, 20), logits, 20)


@needs_kernels
@pytest.mark.parametrize("size", [1, 15, 511, 512, 4099])
def test_variants_agree_to_the_bit(size: int) -> None:
    logits = (3 * np.random.default_rng(size).standard_normal(size)).astype(np.float32)
    found = []
    for variant in VARIANTS:
        with mock.patch.dict(os.environ, {"RBEE_KERNELS": variant}):
            found.append(native_log_softmax()(logits, min(5, size)))
    assert found == [found[0]] * len(VARIANTS)


@needs_kernels
@pytest.mark.parametrize("top", [-1, 10])
def test_nothing_is_written_beyond_the_row(top: int) -> None:
    with pytest.raises(IndexError, match="9 logits have no"):
        native_log_softmax()(np.zeros(9, np.float32), top)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [slice(None), slice(0, 1), slice(-1, None)])
def test_there_are_none_without_a_largest_logit(name: str, broken: float, at: slice) -> None:
    logits = np.full(1000, -np.inf, np.float32)
    logits[at] = broken
    found = measure(name)(logits, 20)
    assert np.isnan(found.whole)
    assert found[1:] == ([], [])
