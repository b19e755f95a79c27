"""Nomic's encoder, beside its published definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.embedding import assert_near_its_weights, embed, of_length_one
from support.makers import MakeArtifact
from support.tiny_encoders import CONTEXT, VOCAB
from support.tiny_nomic import nomic_states, save_nomic

from rbee_export import UnsupportedModel, open_embedder
from rbee_export.embedder_evaluation import reference_embeddings

Vectors = NDArray[np.float32]

DRAW = np.random.default_rng(5)
TEXTS = [DRAW.integers(5, VOCAB - 14, length).tolist() for length in (2, 17, 3, CONTEXT, 40)]


def theirs(checkpoint: Path) -> Vectors:
    return of_length_one(np.stack([nomic_states(checkpoint, text).mean(0) for text in TEXTS]))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"activation_function": "geglu"},
        {"qkv_proj_bias": True, "mlp_fc1_bias": True, "mlp_fc2_bias": True},
        {"n_embd": 192, "n_head": 3},
    ],
)
def test_parity(changed: dict[str, Any], tmp_path: Path, make_embedder: MakeArtifact) -> None:
    checkpoint = save_nomic(tmp_path / "nomic", **changed)
    expected = theirs(checkpoint)
    ours = embed(make_embedder(checkpoint, "fp32"), TEXTS)
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)
    reference = reference_embeddings(open_embedder(checkpoint), TEXTS)
    np.testing.assert_allclose(reference, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("precision", "most"), [("fp16", 1e-4), ("int8", 0.005), ("int4", 0.2)])
def test_fidelity(precision: str, most: float, tmp_path: Path, make_embedder: MakeArtifact) -> None:
    checkpoint = save_nomic(tmp_path / "nomic")
    artifact = make_embedder(checkpoint, precision)
    assert_near_its_weights(checkpoint, artifact, TEXTS, precision=precision, most=most)


def test_texts_that_turn_by_other_angles_are_too_long(tmp_path: Path) -> None:
    plain, scaled = (
        open_embedder(save_nomic(tmp_path / str(factor), rotary_scaling_factor=factor))
        for factor in (None, 2.0)
    )
    assert (plain.config.context_length, scaled.config.context_length) == (CONTEXT, 64)


@pytest.mark.parametrize(
    "changed",
    [
        {"prenorm": True},
        {"use_rms_norm": True},
        {"rotary_emb_fraction": 0.5},
        {"rotary_emb_interleaved": True},
        {"num_experts": 8},
        {"moe_every_n_layers": 2},
        {"mlp_fc2_bias": True},
        {"activation_function": "gelu"},
        {"n_embd": 60},
    ],
)
def test_what_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = save_nomic(tmp_path / "nomic", **changed)
    (key,) = changed
    named = {"activation_function": "activation 'gelu'", "n_embd": "heads of 15"}.get(key, key)
    with pytest.raises(UnsupportedModel, match=named) as refused:
        open_embedder(checkpoint)
    assert len(str(refused.value).splitlines()) == 1
