"""Configurations of no model: a line that says what is wrong with them, or a whole artifact."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.gguf_conversion import save_gguf
from support.refusals import refused_or_exported
from support.tiny_families import save_family
from support.tiny_llama import copy_of

from rbee_export import ExportError, Options, export, open_checkpoint
from rbee_export.checkpoint.gguf_header import read_header

FAMILIES = ("llama-3", "qwen2-yarn", "phi", "phi3-longrope", "gemma2", "gemma3", "smollm3")
FAMILIES += ("mixtral", "qwen2-moe", "qwen3-moe-mixed", "granite-moe", "lfm2-moe")
FAMILIES += ("ministral-3", "exaone4", "glm4", "hunyuan", "cohere2", "stablelm", "granite-4")
_ODD_NUMBERS = [0, -1, 1, 3, 1.5, 10**9, 10**12, 10**30, 2**53 - 1, -(2**40)]
_ODD_REALS = [math.nan, math.inf, -math.inf, 1e-300, 1e300]
_ODD_OTHERS = [True, False, "x", "", "1", [], {}, [1], [None], None]
IGNORED = ("architectures", "transformers_version", "dtype", "use_cache", "initializer_range")
ODD = [*_ODD_NUMBERS, *_ODD_REALS, *_ODD_OTHERS]

# Numbers without a sign are written as integers of 32 bits, others as floating-point.
ODD_FIELDS = [0, 1, 3, 10**9, 2**32 - 1, 0.0, -1.0, 1.5, 1e-30, 1e30, *_ODD_REALS[:3]]
ODD_FIELDS += [True, "", "x", [1], [1.5], ["a"], [0] * 5]

QUIET = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: save_family(root / name, name) for name in FAMILIES}


def keys(config: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        if key != "vision_config":
            yield (*path, key)
        if isinstance(value, dict):
            yield from keys(value, (*path, key))


def with_value(config: dict[str, Any], key: tuple[str, ...], value: object) -> dict[str, Any]:
    first, *rest = key
    return {**config, first: with_value(config[first], tuple(rest), value) if rest else value}


@given(data=st.data(), family=st.sampled_from(FAMILIES), value=st.sampled_from(ODD))
@QUIET
def test_a_configuration_with_an_odd_value(
    data: st.DataObject, family: str, value: object, families: dict[str, Path], tmp_path: Path
) -> None:
    model = tmp_path / family
    if not model.exists():
        copy_of(families[family], tmp_path)
    config = json.loads((families[family] / "config.json").read_text())
    key = data.draw(st.sampled_from([k for k in keys(config) if k[-1] not in IGNORED]))
    (model / "config.json").write_text(json.dumps(with_value(config, key, value)))
    refused_or_exported(model, tmp_path / "out")


@given(
    data=st.data(),
    family=st.sampled_from(
        ["llama-3", "phi3-longrope", "gemma3", "mixtral", "qwen2-moe", "lfm2-moe", "granite-4"]
    ),
)
@QUIET
def test_a_file_with_an_odd_field(
    data: st.DataObject, family: str, families: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "model.gguf"
    save_gguf(file, families[family], "F16", embedding_kind="F16")
    known = [key for key in read_header(file).fields if key != "general.architecture"]
    fields = {data.draw(st.sampled_from(known)): data.draw(st.sampled_from(ODD_FIELDS))}
    save_gguf(file, families[family], "F16", embedding_kind="F16", fields=fields)
    refused_or_exported(file, tmp_path / "out")


@pytest.mark.parametrize(
    ("family", "changed", "problem"),
    [
        ("llama-3", {"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000"),
        ("llama-3", {"hidden_size": 10**9}, "has shape"),
        ("llama-3", {"vocab_size": 10**9}, "has shape"),
        ("llama-3", {"max_position_embeddings": 10**9}, "no model's"),
        ("llama-3", {"rope_theta": 0}, "rope_theta is 0; it must be above 1"),
        ("llama-3", {"rope_theta": -1}, "rope_theta is -1; it must be above 1"),
        ("phi", {"partial_rotary_factor": 10**9}, "partial_rotary_factor is 1e+09"),
        (
            "phi3-longrope",
            {"original_max_position_embeddings": 10**9},
            "original_max_position_embeddings is 1000000000",
        ),
        ("gemma2", {"query_pre_attn_scalar": -4}, "query_pre_attn_scalar is -4"),
        ("gemma2", {"hidden_size": -64}, "hidden_size is -64"),
        ("gemma2", {"layer_types": ["chunked"] * 4}, "layer_types has 'chunked'; full_attention"),
        ("gemma2", {"layer_types": [[]] * 4}, "layer_types has []; full_attention and sliding"),
    ],
)
def test_configurations_that_no_model_has(
    family: str, changed: dict[str, Any], problem: str, families: dict[str, Path], tmp_path: Path
) -> None:
    model = copy_of(families[family], tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(ExportError) as caught:
        export(open_checkpoint(model), tmp_path / "out", Options("fp32"), "0" * 64)
    assert problem in str(caught.value)
    assert not (tmp_path / "out").exists()
