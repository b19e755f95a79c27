"""Decoders that embed texts as strangers may describe them: refused in one line, or read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.makers import MakeEncoder
from support.tiny_encoders import write_json
from support.tiny_llama import copy_of

from rbee_export import CheckpointError, UnsupportedModel, open_checkpoint, open_embedder
from rbee_export.cli import main

REFUSED: dict[str, tuple[Mapping[str, Any], str]] = {
    "both sides": ({"is_causal": False}, "see those that come later"),
    "both sides, said otherwise": ({"use_bidirectional_attention": True}, "that come later"),
    "a cap, on both sides": (
        {
            "model_type": "gemma3_text",
            "use_bidirectional_attention": True,
            "hidden_act": "gelu_pytorch_tanh",
            "attn_logit_softcapping": 30.0,
        },
        "attn_logit_softcapping",
    ),
    "a part of heads turned, on both sides": (
        {
            "model_type": "gemma3_text",
            "use_bidirectional_attention": True,
            "hidden_act": "gelu_pytorch_tanh",
            "partial_rotary_factor": 0.5,
        },
        "partial_rotary_factor",
    ),
    "code of its own": (
        {"auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"}},
        "modeling_qwen.Qwen2Model",
    ),
    "an unknown type": ({"model_type": "mamba"}, "'mamba'"),
    "no type": ({"model_type": None}, "None"),
    "a type of no kind": ({"model_type": ["qwen3"]}, "['qwen3']"),
    "an activation": ({"hidden_act": "relu"}, "relu"),
    "rotary scaling": ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
    "two sets of frequencies": (
        {
            "rope_scaling": {
                "rope_type": "longrope",
                "short_factor": [1.0] * 16,
                "long_factor": [2.0] * 16,
                "original_max_position_embeddings": 64,
            }
        },
        "two sets of rotary frequencies",
    ),
    "experts": (
        {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2},
        "mixtures of experts",
    ),
    "layers without positions": (
        {"model_type": "smollm3", "no_rope_layers": [1, 1, 0]},
        "layers without rotary embedding",
    ),
    "queries that grow": (
        {
            "model_type": "ministral3",
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 64,
                "llama_4_scaling_beta": 0.1,
            },
        },
        "queries that grow with their position",
    ),
    "norms of rotated heads": ({"model_type": "hunyuan_v1_dense"}, "behind their rotary embedding"),
}
DAMAGED: dict[str, tuple[Mapping[str, Any], str]] = {
    "no heads": ({"num_attention_heads": 0}, "below 1"),
    "heads that cannot share": ({"num_key_value_heads": 3}, "cannot share"),
    "a head of another width": ({"head_dim": 48}, "shape"),
    "a head of an odd width": ({"head_dim": 24}, "multiple of 16"),
    "another vocabulary": ({"vocab_size": 400}, "shape"),
    "fewer tokens": ({"vocab_size": 30}, "vocab_size is 30"),
    "more layers": ({"num_hidden_layers": 4}, "layers.3"),
    "no context": ({"max_position_embeddings": 0}, "below 1"),
    "an endless context": ({"max_position_embeddings": 1 << 40}, "no model's"),
}


@pytest.mark.parametrize("kind", [*REFUSED, *DAMAGED])
def test_what_is_refused(
    kind: str,
    make_embedding_decoder: MakeEncoder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed, named = {**REFUSED, **DAMAGED}[kind]
    checkpoint, out = copy_of(make_embedding_decoder(), tmp_path), tmp_path / "out"
    file = checkpoint / "config.json"
    write_json(file, {**json.loads(file.read_text()), **changed})
    assert main(["--model", str(checkpoint), "--out", str(out), "--precision", "fp32"]) == 3
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert named in said
    assert not out.exists()
    if kind in REFUSED:
        with pytest.raises(UnsupportedModel):
            open_embedder(checkpoint)


def test_a_language_model_that_sees_what_comes_later_is_refused(
    make_embedding_decoder: MakeEncoder, tmp_path: Path
) -> None:
    checkpoint = copy_of(make_embedding_decoder("gemma3"), tmp_path)
    (checkpoint / "modules.json").unlink()
    with pytest.raises(UnsupportedModel, match="use_bidirectional_attention is not supported in"):
        open_checkpoint(checkpoint)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
)
KEYS = ("model_type", "is_causal", "auto_map", "head_dim", "rope_theta", "rope_scaling")
KEYS += (
    "sliding_window",
    "layer_types",
    "max_window_layers",
    "num_key_value_heads",
    "rms_norm_eps",
)


@given(key=st.sampled_from(KEYS), value=JSON)
@settings(max_examples=150, deadline=None)
def test_strange_settings_are_refused_in_one_line(
    key: str, value: object, a_checkpoint: Path
) -> None:
    file = a_checkpoint / "config.json"
    before, said = file.read_bytes(), ""
    try:
        write_json(file, {**json.loads(before), key: value})
        open_embedder(a_checkpoint).tokenizer()
    except (CheckpointError, UnsupportedModel) as error:
        said = str(error)
    finally:
        file.write_bytes(before)
    assert len(said.splitlines()) <= 1


@pytest.fixture(scope="module")
def a_checkpoint(
    make_embedding_decoder: MakeEncoder, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return copy_of(make_embedding_decoder("qwen3-windows"), tmp_path_factory.mktemp("changed"))
