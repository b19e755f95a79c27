from __future__ import annotations

import math

import numpy as np
import pytest

from rbee_bench.fidelity import compare


def test_an_engine_is_not_away_from_itself() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (7, 50)).astype(np.float32)
    shifted = logits + np.float32(3)  # what softmax does not see
    assert compare(logits, logits) == (0.0, 1.0)
    assert compare(shifted, logits) == (pytest.approx(0.0, abs=1e-6), 1.0)


def test_divergence_is_the_mean_from_the_reference_in_nats() -> None:
    reference = np.log(np.array([[0.75, 0.25], [0.5, 0.5]], np.float32))
    logits = np.log(np.array([[0.5, 0.5], [0.5, 0.5]], np.float32))
    divergence, _ = compare(logits, reference)
    assert divergence == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2)


def test_agreement_counts_positions_with_the_same_likeliest_token() -> None:
    reference = np.eye(4, dtype=np.float32)
    logits = reference.copy()
    logits[1, 3] = 2.0
    assert compare(logits, reference)[1] == 0.75


def test_small_divergences_do_not_drown_in_float32() -> None:
    random = np.random.default_rng(1)
    reference = random.normal(0, 3, (4, 20_000)).astype(np.float32)
    noise = random.normal(0, 1e-3, reference.shape).astype(np.float32)
    divergence, _ = compare(reference + noise, reference)
    # To second order it is half the noise's variance under the reference: 5e-7.
    assert divergence == pytest.approx(5e-7, rel=0.2)
