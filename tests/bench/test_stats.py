from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_bench.stats import doubtful, paired_ratio, ratio_interval, spread

_rates = st.lists(st.floats(1.0, 1e4), min_size=1, max_size=12)


def test_spread_is_the_middle_half_over_the_median() -> None:
    assert spread([90.0, 100.0, 100.0, 110.0, 120.0]) == pytest.approx(0.1)


def test_one_interrupted_round_does_not_make_a_run_noisy() -> None:
    assert spread([100.0, 101.0, 99.0, 100.0, 102.0, 10.0]) < 0.05


def test_a_single_round_has_no_spread() -> None:
    assert spread([42.0]) == 0.0


def test_a_slow_minute_cancels_out_of_a_paired_ratio() -> None:
    machine = [1.0, 1.0, 0.2, 0.3, 1.0]
    assert paired_ratio(
        [150.0 * m for m in machine], [100.0 * m for m in machine]
    ) == pytest.approx(1.5)


def test_a_paired_ratio_wants_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio([1.0, 2.0], [1.0])


@given(_rates, st.floats(0.1, 10.0))
def test_units_change_neither_figure(rates: list[float], scale: float) -> None:
    scaled = [rate * scale for rate in rates]
    assert spread(scaled) == pytest.approx(spread(rates))
    assert paired_ratio(scaled, rates) == pytest.approx(scale)


def test_the_interval_of_a_ratio_is_two_of_the_means_of_pairs() -> None:
    # P(W = 0) of 8 is 1/256, so the extremes hold the centre with 1 - 2/256 > 99 %.
    ones = [1.0] * 8
    assert ratio_interval([8, 3, 5, 1, 2, 7, 6, 4], ones, 0.99) == pytest.approx((1, 8))
    assert ratio_interval([3, 5, 1, 2, 7, 6, 4], ones[:7], 0.99) == (0.0, math.inf)
    # P(W <= 3) of 6 is 5/64, so the fourth mean from either end does for 80 %: of the logarithms
    # 0 to 5 these are 0, 0.5, 1 and 1.
    powers = [math.exp(power) for power in range(6)]
    low, high = ratio_interval(powers, ones[:6], 0.8)
    assert (math.log(low), math.log(high)) == pytest.approx((1.0, 4.0))
    assert ratio_interval([], [], 0.8) == (0.0, math.inf)


@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_the_interval_holds_the_ratio_as_often_as_it_says(noise: float) -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        ours, theirs = random.lognormal(0.0, noise, (2, 10))
        low, high = ratio_interval(1.5 * ours, theirs, 0.8)
        held += low <= 1.5 <= high
    assert 0.75 * 400 < held < 0.92 * 400


def test_the_order_of_two_turns_the_interval_round() -> None:
    ours, theirs = [3.0, 4.0, 5.0, 6.0, 4.0], [2.0, 2.5, 2.0, 3.0, 3.0]
    low, high = ratio_interval(ours, theirs, 0.8)
    assert ratio_interval(theirs, ours, 0.8) == pytest.approx((1 / high, 1 / low))


def test_two_runs_whose_ratios_would_differ_are_doubtful() -> None:
    random = np.random.default_rng(2)

    def run(noise: float) -> tuple[list[float], list[float]]:
        ours, theirs = random.lognormal(0.0, noise, (2, 6))
        return (1.3 * ours).tolist(), theirs.tolist()

    for noise in (0.005, 0.02, 0.1):
        apart = trusted = 0
        for _ in range(300):
            first, second = run(noise), run(noise)
            if not doubtful(*first) and not doubtful(*second):
                trusted += 1
                ratio = paired_ratio(*first) / paired_ratio(*second)
                apart += not 1 / 1.05 <= ratio <= 1.05
        assert apart <= 0.05 * 300
        if noise == 0.005:
            assert trusted > 290
        if noise == 0.1:
            assert trusted < 30


def test_two_halves_that_are_apart_are_doubtful() -> None:
    other = [100.0, 101.0] * 20
    assert not doubtful([130.0, 131.3] * 20, other)
    # Of so many rounds the bounds are close; but each half has a ratio of its own.
    ours = [130.0, 131.3] * 10 + [138.0, 139.4] * 10
    low, high = ratio_interval(ours, other, 0.8)
    assert high / low < 1.05
    assert doubtful(ours, other)


def test_too_few_rounds_are_doubtful() -> None:
    assert doubtful([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    assert not doubtful([1.0] * 4, [1.0] * 4)
