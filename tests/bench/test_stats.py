from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_bench.stats import median_interval, paired_ratio, spread

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


def test_the_interval_of_a_median_is_two_of_the_values() -> None:
    # P(X = 0) of 8 trials is 1/256, so the extremes hold the median with 1 - 2/256 > 99 %.
    assert median_interval([8, 3, 5, 1, 2, 7, 6, 4]) == (1, 8)
    assert median_interval([3, 5, 1, 2, 7, 6, 4]) == (-math.inf, math.inf)
    # 2 * (1 + 12) / 4096 = 0.6 %, 2 * (1 + 12 + 66) / 4096 = 3.9 %: the second from either end.
    assert median_interval(range(12)) == (1, 10)
    assert median_interval(range(12), 0.95) == (2, 9)
    assert median_interval([]) == (-math.inf, math.inf)
