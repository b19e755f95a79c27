"""Which tokens may be drawn, and how often."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from support.native import usable

from rbee_runtime import drawing, sampling
from rbee_runtime.kernels.drawing import native_draw
from rbee_runtime.request import GREEDY, U64_MAX, SamplingParams
from rbee_runtime.sampling import RowSampler, sample

STRATA = 200
ALMOST_ONE = float(np.nextafter(1.0, 0.0))

DRAWERS = ["numpy"] if usable() else ["numpy", "native"]


@pytest.fixture(params=DRAWERS, autouse=True, scope="module")
def drawer(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test draws in NumPy, and with the native kernels where they can be used."""
    chosen = native_draw() if request.param == "native" else drawing.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "best_draw", lambda: chosen)
        yield


class Scripted(RowSampler):
    """Draws a number that the test gives it."""

    def __init__(self, params: SamplingParams, drawn: float, prompt: Sequence[int] = ()) -> None:
        super().__init__(params, prompt)
        self._drawn = drawn

    def uniform(self) -> float:
        return self._drawn


def draw(logits: NDArray[np.float32], params: SamplingParams, at: Sequence[float]) -> list[int]:
    rows = [Scripted(params, number) for number in at]
    return sample(np.tile(logits, (len(rows), 1)), rows)


def allowed(
    logits: NDArray[np.float32], params: SamplingParams, *, give: float = 0.0
) -> NDArray[np.float64]:
    """Return each token's probability, the slow way in float64.

    Args:
        give: How much wider the filters are drawn, where rounding may decide either way.
    """
    scaled = logits.astype(np.float64) / params.temperature
    weights = np.exp(scaled - scaled.max())
    order = sorted(range(len(weights)), key=lambda i: (-logits[i], i))
    if params.top_k > 0:
        order = order[: params.top_k]
    total, so_far, kept = sum(weights[order]), 0.0, []
    for token in order:
        kept.append(token)
        so_far += weights[token]
        if params.top_p < 1.0 and so_far >= (params.top_p + give) * total:
            break
    kept = [token for token in kept if weights[token] >= params.min_p - give]
    chances = np.zeros(len(weights))
    chances[kept] = weights[kept] / weights[kept].sum()
    return chances


# Logits a quarter apart tie often and are told apart exactly in float32.
LOGITS = arrays.arrays(
    np.float32, st.integers(1, 40), elements=st.integers(-40, 12).map(lambda n: n / 4)
)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.7, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 5, 39, 1000]),
    top_p=st.one_of(st.just(1.0), st.floats(0.0, 1.0)),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
)


@given(logits=LOGITS, params=PARAMS)
@settings(max_examples=200, deadline=None)
def test_every_token_is_drawn_as_often_as_it_should(
    logits: NDArray[np.float32], params: SamplingParams
) -> None:
    at = (np.arange(STRATA) + 0.5) / STRATA
    tokens = draw(logits, params, [*at, 0.0, ALMOST_ONE])
    drawn = np.bincount(tokens[:STRATA], minlength=len(logits))
    strict, loose = allowed(logits, params, give=-1e-5), allowed(logits, params, give=1e-5)
    assert (loose[tokens] > 0).all()
    if ((strict > 0) == (loose > 0)).all():
        # One stretch of the numbers belongs to each token: strata are off by one at most.
        assert (np.abs(drawn - STRATA * strict) <= 1.001).all()


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (SamplingParams(top_k=3), [7, 1, 4]),
        (SamplingParams(top_k=4), [7, 1, 4, 0]),  # 0, 2 and 9 tie: the lowest id stays
        (SamplingParams(top_k=2, top_p=0.999), [7, 1]),
        (SamplingParams(top_p=0.0), [7]),
        (SamplingParams(top_k=1), [7]),
        (SamplingParams(min_p=1.0), [7]),
        (SamplingParams(top_k=6, min_p=0.3), [7, 1, 4]),
        (SamplingParams(top_k=10**12), list(range(10))),
        (SamplingParams(), list(range(10))),
    ],
)
def test_filters(params: SamplingParams, kept: list[int]) -> None:
    weights = [2, 8, 2, 1, 4, 1, 1, 10, 1, 2]
    logits = np.log(np.array(weights, np.float32))
    assert set(draw(logits, params, np.linspace(0, ALMOST_ONE, 400))) == set(kept)


@pytest.mark.parametrize("sharpness", [0.0, 0.5, 5.0])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_k=3000),
        SamplingParams(top_p=0.6),
        SamplingParams(top_k=9000, top_p=0.9),
        SamplingParams(top_p=0.97, min_p=0.01),
        SamplingParams(min_p=0.1),
    ],
    ids=str,
)
def test_the_head_grows_as_far_as_it_must(params: SamplingParams, sharpness: float) -> None:
    """Thousands of tokens are left of a flat distribution, few of a peaked one."""
    random = np.random.default_rng(4)
    logits = (sharpness * random.standard_normal(20_000)).astype(np.float32)
    strict, loose = allowed(logits, params, give=-1e-5), allowed(logits, params, give=1e-5)
    at = np.concatenate([np.linspace(0, ALMOST_ONE, 60), [1e-9, 1 - 1e-9]])
    for number in at:
        (token,) = draw(logits, params, [number])
        assert loose[token] > 0
    # The mean rank of what is drawn says whether the set is as large as it should be.
    tokens = [draw(logits, params, [number])[0] for number in (np.arange(50) + 0.5) / 50]
    rank = np.empty(logits.size, np.int64)
    rank[np.lexsort((np.arange(logits.size), -logits))] = np.arange(logits.size)
    expected = float((strict * rank).sum())
    assert np.mean(rank[tokens]) == pytest.approx(expected, rel=0.3, abs=1.0)


@pytest.mark.parametrize("top_p", [0.3, 0.7, 0.95])
def test_a_flat_nucleus_is_drawn_from_as_it_should_be(top_p: float) -> None:
    """Its tokens, in eight parts that weigh the same, come up equally often, and no others do."""
    random = np.random.default_rng(8)
    logits = random.standard_normal(6000).astype(np.float32)
    params = SamplingParams(top_p=top_p, seed=9)
    chances = allowed(logits, params)
    row, count = RowSampler(params, []), 4000
    drawn = [sample(logits[None].copy(), [row])[0] for _ in range(count)]
    assert (chances[drawn] > 0).all()
    part = np.minimum((chances.cumsum() * 8).astype(int), 7)
    observed = np.bincount(part[drawn], minlength=8)
    expected = np.bincount(part, chances, minlength=8) * count
    chi_square = ((observed - expected) ** 2 / expected).sum()
    assert chi_square < 24.3  # one in a thousand exceeds it, at 7 degrees of freedom


def test_greedy_takes_the_largest_and_of_equals_the_first() -> None:
    logits = np.array([[1, 5, 5, 2], [9, -1, 9, 9], [-3, -2, -1, -0.5]], np.float32)
    filters = SamplingParams(temperature=0.0, top_k=3, top_p=0.1, min_p=1.0, seed=3)
    assert sample(logits, [RowSampler(GREEDY, []), RowSampler(filters, []), greedy_row()]) == [
        1,
        0,
        3,
    ]


def greedy_row(**params: Any) -> RowSampler:
    return RowSampler(SamplingParams(**{"temperature": 0.0, **params}), [])


@pytest.mark.parametrize("temperature", [1e-3, 1e-9, 1e-38, 1e-46, 5e-324])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_next_to_no_temperature_is_greedy(temperature: float, top_p: float) -> None:
    logits = np.array([1.0, 3.5, 1e9, -1e9, 0.0, 999_999_900.0], np.float32)
    params = SamplingParams(temperature=temperature, top_p=top_p)
    assert set(draw(logits, params, [0.0, 0.5, ALMOST_ONE])) == {2}


def test_the_draws_follow_the_distribution() -> None:
    chances = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])
    logits = np.log(chances).astype(np.float32)
    count = 8000
    one_stream = RowSampler(SamplingParams(seed=11), [])
    for rows in (
        [one_stream] * count,
        [RowSampler(SamplingParams(seed=seed), []) for seed in range(count)],
    ):
        drawn = np.bincount(sample(np.tile(logits, (count, 1)), rows), minlength=8)
        chi_square = ((drawn - count * chances) ** 2 / (count * chances)).sum()
        assert chi_square < 24.3  # one in a thousand exceeds it, at 7 degrees of freedom


@given(data=st.data(), seeds=st.lists(st.integers(0, U64_MAX), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_row_draws_the_same_in_any_company(data: st.DataObject, seeds: list[int]) -> None:
    logits = np.random.default_rng(2).standard_normal((5, len(seeds), 50)).astype(np.float32)
    params = SamplingParams(top_p=0.95, repetition_penalty=1.3)
    order = data.draw(st.permutations(range(len(seeds))))

    def rows(which: Sequence[int]) -> list[RowSampler]:
        return [RowSampler(replace(params, seed=seeds[i]), [1, 2]) for i in which]

    together, shuffled = rows(range(len(seeds))), rows(order)
    for step in logits:
        tokens = sample(step.copy(), together)
        assert sample(step[order], shuffled) == [tokens[i] for i in order]
    (alone,) = rows([0])
    again = rows(range(len(seeds)))
    for step in logits:
        assert sample(step[:1].copy(), [alone]) == sample(step.copy(), again)[:1]


def test_a_seed_is_drawn_and_reported() -> None:
    seeds = {RowSampler(SamplingParams(), []).seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed <= U64_MAX for seed in seeds)
    assert RowSampler(SamplingParams(seed=5), []).seed == 5
    logits = np.zeros((1, 1000), np.float32)
    first = RowSampler(SamplingParams(), [])
    second = RowSampler(SamplingParams(seed=first.seed), [])
    for _ in range(10):
        assert sample(logits.copy(), [first]) == sample(logits.copy(), [second])


def test_every_seed_has_its_own_stream() -> None:
    logits = np.zeros(1000, np.float32)
    streams = set()
    for seed in (0, 1, 2, 2**32, 2**63, U64_MAX):
        row = RowSampler(SamplingParams(seed=seed), [])
        streams.add(tuple(sample(logits[None].copy(), [row])[0] for _ in range(4)))
    assert len(streams) == 6


@pytest.mark.parametrize("penalty", [0.5, 1.5, 2.0])
def test_the_penalty_divides_the_positive_and_multiplies_the_negative(penalty: float) -> None:
    row = RowSampler(SamplingParams(repetition_penalty=penalty), [0, 2, 2, 3])
    logits = np.array([2, 2, -2, 0, -2], np.float32)
    row.adjust(logits)
    np.testing.assert_allclose(logits, [2 / penalty, 2, -2 * penalty, 0, -2], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_the_slightest_penalty_leaves_something_to_draw(temperature: float) -> None:
    slight = SamplingParams(repetition_penalty=5e-324, temperature=temperature)
    logits = np.array([[0.0, -3.0, 50.0, 8.0]], np.float32)
    assert sample(logits, [RowSampler(slight, [0, 1, 3])]) == [3]


def test_what_was_drawn_is_penalised_next_time() -> None:
    row = greedy_row(repetition_penalty=2.0)
    logits = np.array([[3, 4, 5]], np.float32)
    assert [sample(logits.copy(), [row])[0] for _ in range(4)] == [2, 1, 0, 2]


def test_no_penalty_changes_nothing() -> None:
    row = greedy_row()
    logits = np.array([[3, 4, 5]], np.float32)
    assert [sample(logits.copy(), [row])[0] for _ in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("params", [GREEDY, SamplingParams(), SamplingParams(top_p=0.5)], ids=str)
def test_logits_that_are_no_numbers_are_refused(bad: float, params: SamplingParams) -> None:
    logits = np.array([1, bad, 2], np.float32)
    good = np.array([1, 0, 2], np.float32)
    rows = [Scripted(params, 0.9) for _ in range(3)]
    tokens = sample(np.stack([good, logits, good]), rows)
    assert tokens[1] is None
    assert None not in (tokens[0], tokens[2])


def test_tokens_that_cannot_come_do_not() -> None:
    logits = np.array([-np.inf, 1, -np.inf, 0], np.float32)
    assert set(draw(logits, SamplingParams(), [0.0, 0.5, ALMOST_ONE])) == {1, 3}


def test_penalties_count_what_was_drawn_and_not_the_prompt() -> None:
    params = SamplingParams(frequency_penalty=0.5, presence_penalty=1.0)
    row = RowSampler(params, [0, 0, 3])
    for token in (1, 1, 2):
        row.record(token)
    logits = np.array([4, 4, 4, 4], np.float32)
    row.adjust(logits)
    np.testing.assert_allclose(logits, [4, 4 - 1.0 - 2 * 0.5, 4 - 1.0 - 0.5, 4])


def test_a_long_completion_counts_every_token() -> None:
    row = RowSampler(SamplingParams(frequency_penalty=0.01), [])
    for token in [*range(500), *range(100)]:
        row.record(token)
    logits = np.zeros(600, np.float32)
    row.adjust(logits)
    np.testing.assert_allclose(logits, np.repeat([-0.02, -0.01, 0.0], [100, 400, 100]), atol=1e-7)


def test_a_bias_decides_even_greedily() -> None:
    row = greedy_row(logit_bias={0: 3.5, 2: -100.0})
    assert sample(np.array([[1, 2, 4]], np.float32), [row]) == [0]


def test_logits_are_not_kept_once_their_token_is_known() -> None:
    row = RowSampler(replace(GREEDY, logprobs=2), ())
    logits = np.zeros((1, 9), np.float32)
    kept = weakref.ref(logits)
    sample(logits, [row])
    assert row.logprobs is not None
    del logits
    assert kept() is None


def test_a_mask_leaves_what_it_allows() -> None:
    row = RowSampler(SamplingParams(seed=1, top_p=0.9), [])
    row.allowed = np.array([False, True, False, True])
    logits = np.array([[9, 1, 9, 1]], np.float32)
    drawn = {sample(logits.copy(), [row])[0] for _ in range(40)}
    assert drawn == {1, 3}
    row.allowed = np.zeros(4, bool)
    assert sample(logits.copy(), [row]) == [None]


@pytest.mark.skipif(bool(usable()), reason=f"no native kernels: {usable()}")
@given(data=st.data(), size=st.integers(1, 3000), params=PARAMS)
@settings(max_examples=100, deadline=None)
def test_both_drawers_draw_alike(data: st.DataObject, size: int, params: SamplingParams) -> None:
    """From the same logits and number, but where rounding decides between two neighbours."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sharpness = data.draw(st.sampled_from([0.0, 0.3, 2.0, 8.0]))
    logits = (sharpness * random.standard_normal((40, size))).astype(np.float32)
    rows = [RowSampler(replace(params, seed=i), []) for i in range(len(logits))]
    how = [row.how() for row in rows]
    slow, fast = drawing.draw(logits.copy(), how), native_draw()(logits.copy(), how)
    assert sum(one != other for one, other in zip(slow, fast, strict=True)) <= 2
