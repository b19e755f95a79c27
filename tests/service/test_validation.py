"""A bad request learns everything that is wrong with it, and nothing it said in confidence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_service.completion_request import CompletionRequest
from rbee_service.errors import InvalidFields
from rbee_service.prompt_request import PRIVATE_FIELDS
from rbee_service.validation import parse_body

GOOD: dict[str, Any] = {"job_id": "j", "prompt": "Hello", "max_tokens": 16}


def parse(body: Any) -> CompletionRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_body(CompletionRequest, raw, private=PRIVATE_FIELDS)


def faults(body: Any) -> list[dict[str, str]]:
    with pytest.raises(InvalidFields) as caught:
        parse(body)
    errors = caught.value.body()["errors"]
    assert isinstance(errors, list)
    return errors


def test_defaults() -> None:
    request = parse(GOOD)
    assert request.model_dump() == GOOD | {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop": [],
        "seed": None,
    }


@pytest.mark.parametrize(
    "extra",
    [
        {"job_id": "x" * 256},
        {"prompt": "é" * 32768},
        {"prompt": "\x00 \u2028 🐝"},
        {"max_tokens": 1},
        {"max_tokens": 2048},
        {"temperature": 0},
        {"temperature": 2.0},
        {"top_p": 0.0},
        {"top_k": 10**30},
        {"min_p": 1},
        {"repetition_penalty": 2},
        {"repetition_penalty": 0.001},
        {"stop": ["a", "b" * 100, "\n", "d"]},
        {"seed": 2**64 - 1},
        {"seed": 0},
        {"max_tokens": 16.0, "top_k": 4e2, "seed": -0.0},
        {"unknown": {"is": "ignored"}},
        dict.fromkeys(
            ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "seed"]
        ),
    ],
)
def test_taken(extra: dict[str, Any]) -> None:
    request = parse(GOOD | extra)
    request.to_runtime("r", None)


RANGES = [
    ("max_tokens", 0, "range(1..=2048)", "max_tokens must be at least 1", "0"),
    ("max_tokens", -5, "range(1..=2048)", "max_tokens must be at least 1", "-5"),
    ("max_tokens", 2049, "range(1..=2048)", "max_tokens must be at most 2048", "2049"),
    ("temperature", -0.1, "range(0.0..=2.0)", "temperature must be at least 0.0", "-0.1"),
    ("temperature", 2.5, "range(0.0..=2.0)", "temperature must be at most 2.0", "2.5"),
    ("top_p", 1.5, "range(0.0..=1.0)", "top_p must be at most 1.0", "1.5"),
    ("top_k", -1, "range(0..)", "top_k must be at least 0", "-1"),
    ("min_p", -1, "range(0.0..=1.0)", "min_p must be at least 0.0", "-1"),
    (
        "repetition_penalty",
        0,
        "range(0.0<..=2.0)",
        "repetition_penalty must be greater than 0.0",
        "0",
    ),
    ("seed", -1, f"range(0..={2**64 - 1})", "seed must be at least 0", "-1"),
    ("seed", 2**64, f"range(0..={2**64 - 1})", f"seed must be at most {2**64 - 1}", f"{2**64}"),
    ("job_id", "", "length(1..=256)", "job_id must have at least 1 character", ""),
]


@pytest.mark.parametrize(("field", "value", "constraint", "message", "echo"), RANGES)
def test_out_of_range(field: str, value: Any, constraint: str, message: str, echo: str) -> None:
    assert faults(GOOD | {field: value}) == [
        {"field": field, "constraint": constraint, "message": message, "value": echo}
    ]


@pytest.mark.parametrize(
    ("field", "value", "constraint", "echo"),
    [
        ("job_id", 5, "type(string)", "5"),
        ("job_id", "x" * 257, "length(1..=256)", None),
        ("prompt", "", "length(1..=32768)", None),
        ("prompt", "secret" * 6000, "length(1..=32768)", None),
        ("prompt", 5, "type(string)", None),
        ("prompt", ["secret"], "type(string)", None),
        ("max_tokens", True, "type(integer)", "true"),
        ("max_tokens", 5.5, "type(integer)", "5.5"),
        ("max_tokens", "5", "type(integer)", "5"),
        ("temperature", True, "type(number)", "true"),
        ("temperature", "0.5", "type(number)", "0.5"),
        ("temperature", {}, "type(number)", None),
        ("stop", "secret", "type(array)", None),
        ("stop", ["x"] * 5, "length(0..=4)", None),
        ("seed", 1.5, "type(integer)", "1.5"),
        ("seed", "x", "type(integer)", "x"),
    ],
)
def test_wrong_type_or_length(field: str, value: Any, constraint: str, echo: str | None) -> None:
    [fault] = faults(GOOD | {field: value})
    assert (fault["field"], fault["constraint"]) == (field, constraint)
    assert fault.get("value") == echo
    assert fault["message"].startswith(field)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "repetition_penalty"])
def test_numbers_must_be_finite(field: str, number: str) -> None:
    raw = f'{{"job_id":"j","prompt":"p","max_tokens":1,"{field}":{number}}}'.encode()
    [fault] = faults(raw)
    assert fault["field"] == field
    assert fault["constraint"].startswith("range(")


def test_items_of_a_list_are_named() -> None:
    assert [fault["field"] for fault in faults(GOOD | {"stop": ["ok", "", 7, "x" * 101]})] == [
        "stop[1]",
        "stop[2]",
        "stop[3]",
    ]


def test_every_fault_is_named_at_once() -> None:
    found = faults(
        {
            "prompt": "",
            "max_tokens": 0,
            "temperature": 3,
            "top_p": -1,
            "top_k": -1,
            "min_p": 2,
            "repetition_penalty": 0,
            "stop": [""],
            "seed": -1,
        }
    )
    assert [fault["field"] for fault in found] == [
        "prompt",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "stop[0]",
        "seed",
        "job_id",
    ]


def test_what_is_required_may_not_be_null() -> None:
    found = faults({"job_id": None, "prompt": None, "max_tokens": None})
    assert [(f["field"], f["constraint"]) for f in found] == [
        ("prompt", "required"),
        ("max_tokens", "required"),
        ("job_id", "required"),
    ]


@pytest.mark.parametrize(
    ("raw", "constraint"),
    [
        (b"", "json"),
        (b"not json", "json"),
        (b'{"job_id":"j",}', "json"),
        (b'{"job_id":"\xff"}', "json"),
        (b'{"job_id":"j","prompt":"\\ud800","max_tokens":1}', "json"),
        (b"[" * 100_000, "json"),
        (b"[1]", "type(object)"),
        (b'"x"', "type(object)"),
        (b"null", "type(object)"),
    ],
)
def test_a_body_that_is_no_object(raw: bytes, constraint: str) -> None:
    [fault] = faults(raw)
    assert (fault["field"], fault["constraint"]) == ("body", constraint)
    assert "value" not in fault


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=120),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
bodies = st.dictionaries(
    st.sampled_from([*CompletionRequest.model_fields, "other"]), json_values, max_size=11
)


@given(bodies)
def test_any_body_is_either_servable_or_refused_in_the_same_words(body: dict[str, Any]) -> None:
    try:
        request = parse(body)
    except InvalidFields as invalid:
        found = invalid.faults
    else:
        # The runtime has checks of its own: what passes here passes there.
        request.to_runtime("r", None)
        return
    assert found
    for fault in found:
        assert fault.field.split("[")[0] in CompletionRequest.model_fields
        assert fault.message.startswith(fault.field)
        assert fault.constraint
        assert not (fault.field.startswith(("prompt", "stop")) and fault.value is not None)


@given(st.text(st.characters(codec="utf-8"), min_size=20))
def test_the_prompt_is_never_repeated(prompt: str) -> None:
    found = faults({"prompt": [prompt], "stop": prompt, "max_tokens": 0})
    assert len(found) == 4
    assert not any(prompt in part for fault in found for part in fault.values())
