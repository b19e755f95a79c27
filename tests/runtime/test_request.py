"""Requests that can never be served are refused where they are made."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rbee_runtime.errors import ContextOverflow, InvalidRequest
from rbee_runtime.request import U64_MAX, Request, SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("top_k", -1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", 2.1),
        ("repetition_penalty", math.nan),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("presence_penalty", math.nan),
        ("logit_bias", {5: 100.5}),
        ("logit_bias", {5: math.nan}),
        ("seed", -1),
        ("seed", U64_MAX + 1),
    ],
)
def test_sampling_parameters_out_of_range(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} must be ") as caught:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


def test_the_ends_of_the_ranges_are_in_them() -> None:
    SamplingParams(2.0, -2.0, 2.0, {3: -100.0, 4: 100.0}, 0.0, 0, 0.0, 0.0, 0)
    SamplingParams(5e-324, 2.0, -2.0, {}, 2.0, 10**9, 1.0, 1.0, U64_MAX)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"stop": ("a", "")}, "stop"),
    ],
)
def test_bad_requests(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} must be ") as caught:
        Request(**{"request_id": "a", "prompt": "b", "max_tokens": 1, **changes})
    assert caught.value.field == field


def test_an_overflow_names_its_numbers() -> None:
    error = ContextOverflow(900, 200, 1024)
    assert "900" in str(error)
    assert "200" in str(error)
    assert "1024" in str(error)
    assert (error.prompt_tokens, error.max_tokens, error.context_length) == (900, 200, 1024)
    assert error.field == "prompt"
