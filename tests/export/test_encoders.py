"""Every family of encoders embeds as ``transformers`` does, whatever else is in the pack."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from support.embedding import assert_near_its_weights, embed, of_length_one
from support.makers import MakeArtifact, MakeEncoder
from support.native import needs_kernels
from support.running import open_plainly
from support.tiny_encoders import CONTEXT, ENCODERS, VOCAB, WINDOW, hidden_states, load_encoder
from support.tiny_llama import copy_of

from rbee_export import open_embedder
from rbee_export.checkpoint.relative_positions import BUCKETS, by_distance
from rbee_export.embedder_evaluation import reference_embeddings
from rbee_runtime.artifact import EmbedderArtifact
from rbee_runtime.backend.session import open_with_kernels

Vectors = NDArray[np.float32]

LENGTHS = (2, 17, 3, CONTEXT, 40, 2)
DRAW = np.random.default_rng(5)
TEXTS = [DRAW.integers(5, VOCAB, length).tolist() for length in LENGTHS]

POOLINGS: Mapping[str, Callable[[Vectors], Vectors]] = {
    "pooling_mode_mean_tokens": lambda states: states.mean(0),
    "pooling_mode_cls_token": lambda states: states[0],
    "pooling_mode_lasttoken": lambda states: states[-1],
}


def states_of(checkpoint: Path) -> list[Vectors]:
    model = load_encoder(checkpoint)
    return [hidden_states(model, text) for text in TEXTS]


@pytest.mark.parametrize("name", ENCODERS)
def test_parity(name: str, make_encoder: MakeEncoder, make_embedder: MakeArtifact) -> None:
    checkpoint = make_encoder(name)
    theirs = of_length_one(np.stack([states.mean(0) for states in states_of(checkpoint)]))
    artifact = make_embedder(checkpoint, "fp32")
    np.testing.assert_allclose(embed(artifact, TEXTS), theirs, atol=1e-5, rtol=0)
    for text, vector in zip(TEXTS, theirs, strict=True):
        np.testing.assert_allclose(embed(artifact, [text])[0], vector, atol=1e-5, rtol=0)
    ours = reference_embeddings(open_embedder(checkpoint), TEXTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("mode", POOLINGS)
def test_poolings(
    mode: str, normalized: bool, make_encoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    modules = ("Transformer", "Pooling", *(["Normalize"] if normalized else []))
    checkpoint = make_encoder(modules=modules, pooling={mode: True})
    theirs = np.stack([POOLINGS[mode](states) for states in states_of(checkpoint)])
    if normalized:
        theirs = of_length_one(theirs)
    for precision, close in (("fp32", 5e-5), ("fp16", 0.02)):
        ours = embed(make_embedder(checkpoint, precision), TEXTS)
        np.testing.assert_allclose(ours, theirs, atol=close, rtol=0)


def test_a_plain_directory_gives_the_mean_as_it_is(
    make_encoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    checkpoint = make_encoder(modules=None)
    theirs = np.stack([states.mean(0) for states in states_of(checkpoint)])
    artifact = make_embedder(checkpoint, "fp32")
    np.testing.assert_allclose(embed(artifact, TEXTS), theirs, atol=5e-5, rtol=0)
    embedding = EmbedderArtifact.open(artifact).manifest.embedding
    assert (embedding.pooling, embedding.normalized, embedding.dim) == ("mean", False, 64)


COSTS: Mapping[str, float] = {"fp16": 1e-4, "int8": 0.005, "int4": 0.2}
"""The most that the worst cosine may fall short of one, with weights as wild as these."""


@pytest.mark.parametrize("precision", COSTS)
@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "distilbert", "mpnet", "modernbert"])
def test_fidelity(
    name: str, precision: str, make_encoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    checkpoint = make_encoder(name)
    artifact = make_embedder(checkpoint, precision)
    most = COSTS[precision]
    assert_near_its_weights(checkpoint, artifact, TEXTS, precision=precision, most=most)


@needs_kernels
@pytest.mark.parametrize("name", ["bert", "mpnet-wide", "modernbert-wide", "modernbert-biases"])
def test_parity_of_the_native_kernels(
    name: str, make_encoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    checkpoint = make_encoder(name)
    theirs = of_length_one(np.stack([states.mean(0) for states in states_of(checkpoint)]))
    graph = EmbedderArtifact.open(make_embedder(checkpoint, "fp32")).file("graph")
    ours = run(open_with_kernels(graph, exact=True), TEXTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "said",
    [
        {"position_embedding_type": "sans_pos"},
        {
            "layer_types": ["full_attention", *["sliding_attention"] * 2] * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
            "global_rope_theta": 5.0,
            "local_rope_theta": 5.0,
            "global_attn_every_n_layers": 1,
        },
    ],
)
def test_what_other_versions_say_of_the_same(
    said: dict[str, Any], make_encoder: MakeEncoder, tmp_path: Path
) -> None:
    checkpoint = copy_of(make_encoder("modernbert", num_hidden_layers=6), tmp_path)
    before = open_embedder(checkpoint).config
    file = checkpoint / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    assert open_embedder(checkpoint).config == before


def test_windows_matter(make_encoder: MakeEncoder, make_embedder: MakeArtifact) -> None:
    artifacts = [
        make_embedder(make_encoder("modernbert", **changed), "fp32")
        for changed in ({}, {"local_attention": WINDOW + 2})
    ]
    seen, farther = (embed(artifact, TEXTS) for artifact in artifacts)
    differ = np.abs(seen - farther).max(-1) > 1e-4
    assert differ.tolist() == [length > WINDOW // 2 + 1 for length in LENGTHS]


@pytest.mark.parametrize("name", ["bert", "mpnet", "modernbert"])
@given(lengths=st.lists(st.integers(2, CONTEXT), min_size=1, max_size=24))
@settings(max_examples=40, deadline=None)
def test_a_text_is_embedded_alike_in_every_pack(
    name: str, lengths: list[int], make_encoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    graph = EmbedderArtifact.open(make_embedder(make_encoder(name), "fp32")).file("graph")
    session = open_plainly(graph)
    draw = np.random.default_rng(sum(lengths))
    texts = [draw.integers(5, VOCAB, length) for length in lengths]
    together = run(session, texts)
    assert together.shape == (len(texts), 64)
    last = run(session, texts[-1:])
    np.testing.assert_allclose(together[-1:], last, atol=1e-5, rtol=0)


def run(session: ort.InferenceSession, texts: Sequence[Any]) -> Vectors:
    vectors: Vectors = session.run(
        ["embeddings"],
        {
            "input_ids": np.concatenate(texts).astype(np.int64),
            "cu_seqlens": np.cumsum([0, *map(len, texts)]).astype(np.int32),
        },
    )[0]
    return vectors


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "mpnet", "modernbert"])
def test_weights_saved_with_a_head(
    name: str, make_encoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    checkpoint = make_encoder(name, head="AutoModelForMaskedLM")
    stored = load_file(checkpoint / "model.safetensors")
    stem = "model" if name == "modernbert" else name
    assert any(key.startswith(f"{stem}.") for key in stored)
    theirs = of_length_one(np.stack([states.mean(0) for states in states_of(checkpoint)]))
    ours = embed(make_embedder(checkpoint, "fp32"), TEXTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_norms_of_the_first_berts(
    make_encoder: MakeEncoder, make_embedder: MakeArtifact, tmp_path: Path
) -> None:
    checkpoint = copy_of(make_encoder(), tmp_path)
    file = checkpoint / "model.safetensors"
    renamed = {
        re.sub(
            "LayerNorm.bias$", "LayerNorm.beta", re.sub("LayerNorm.weight$", "LayerNorm.gamma", n)
        ): w
        for n, w in load_file(file).items()
    }
    assert "embeddings.LayerNorm.gamma" in renamed
    save_file(renamed, file)
    ours = embed(make_embedder(checkpoint, "fp32"), TEXTS)
    assert np.array_equal(ours, embed(make_embedder(make_encoder(), "fp32"), TEXTS))


@pytest.mark.parametrize("longest", [1, 2, 8, 130, 512])
def test_distances_are_counted_as_transformers_counts_them(longest: int) -> None:
    import torch
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    biases = DRAW.standard_normal((BUCKETS, 3)).astype(np.float32)
    later = torch.arange(1 - longest, longest)
    buckets = MPNetEncoder.relative_position_bucket(later, num_buckets=BUCKETS).numpy()
    assert np.array_equal(by_distance(biases, longest), biases[buckets].T)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_16_bits(
    dtype: str, make_encoder: MakeEncoder, make_embedder: MakeArtifact
) -> None:
    checkpoint = make_encoder(dtype=dtype)
    theirs = of_length_one(np.stack([states.mean(0) for states in states_of(checkpoint)]))
    ours = embed(make_embedder(checkpoint, "fp32"), TEXTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
