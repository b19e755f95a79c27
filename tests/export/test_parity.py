"""An artifact computes what ``transformers`` computes from the same checkpoint."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.makers import MakeArtifact, MakeLlama
from support.running import greedy, open_cpu, prefill
from support.tiny_llama import load_reference, reference_logits

from gpu_check.family_configs import LLAMA3
from rbee_runtime.artifact import Artifact
from rbee_runtime.step import PREFILL_CHUNK, Step

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "bf16": {"dtype": "bfloat16"},
    "fp16": {"dtype": "float16"},
    "sharded": {"max_shard_size": "100KB"},
    "head_dim above hidden / heads": {"head_dim": 32},
    "head_dim below hidden / heads": {"head_dim": 16, "num_attention_heads": 2},
    "llama3 rope": {"rope_scaling": LLAMA3},
    "linear rope": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "every head its own key": {"num_key_value_heads": 4},
    "one key for all heads": {"num_key_value_heads": 1},
    "three layers, odd sizes": {
        "num_hidden_layers": 3,
        "intermediate_size": 100,
        "rope_theta": 1e6,
        "rms_norm_eps": 0.1,
    },
}
COMPLETION = 64


def prompts(lengths: tuple[int, ...], vocab: int) -> list[list[int]]:
    draw = np.random.default_rng(11)
    return [draw.integers(3, vocab, length).tolist() for length in lengths]


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_tokens_and_logits_equal_transformers(
    variant: str, make_llama: MakeLlama, make_artifact: MakeArtifact
) -> None:
    checkpoint = make_llama(**VARIANTS[variant])
    model = load_reference(checkpoint)
    backend = open_cpu(make_artifact(checkpoint, "fp32"))
    assert backend.capacity >= 600
    for prompt in prompts((9, 2 * PREFILL_CHUNK + 18), 384):
        completion = list(itertools.islice(greedy(backend, prompt), COMPLETION))
        # Their choice after each prefix of ours: equal everywhere means equal when run freely.
        theirs = reference_logits(model, prompt + completion)[len(prompt) - 1 :]
        assert completion == theirs[:-1].argmax(-1).tolist()
        # The cache now holds the whole sequence but its last token.
        last = backend.run(Step.of(0, len(prompt) + COMPLETION - 1, completion[-1:]))
        np.testing.assert_allclose(last[0], theirs[-1], atol=1e-4)
        np.testing.assert_allclose(prefill(backend, prompt), theirs[0], atol=1e-4)


@pytest.mark.parametrize("length", [1, PREFILL_CHUNK - 1, PREFILL_CHUNK, PREFILL_CHUNK + 1, 600])
def test_prompts_around_the_chunk_size(
    length: int, tiny_llama: Path, make_artifact: MakeArtifact
) -> None:
    backend = open_cpu(make_artifact(tiny_llama, "fp32"))
    (prompt,) = prompts((length,), 384)
    theirs = reference_logits(load_reference(tiny_llama), prompt)[-1]
    np.testing.assert_allclose(prefill(backend, prompt), theirs, atol=1e-4)


def test_the_whole_context_can_be_used(make_llama: MakeLlama, make_artifact: MakeArtifact) -> None:
    checkpoint = make_llama(max_position_embeddings=320)
    backend = open_cpu(make_artifact(checkpoint, "fp32"))
    assert backend.capacity == 320
    (prompt,) = prompts((319,), 384)
    prefill(backend, prompt)
    logits = backend.run(Step.of(0, 319, [5]))
    theirs = reference_logits(load_reference(checkpoint), [*prompt, 5])
    np.testing.assert_allclose(logits[0], theirs[-1], atol=1e-4)


def test_slots_do_not_see_each_other(tiny_artifact: Path) -> None:
    one, three = open_cpu(tiny_artifact), open_cpu(tiny_artifact, slots=3)
    rows = prompts((5, 280, 40), 384)
    alone = [list(itertools.islice(greedy(one, row), 12)) for row in rows]
    together = [greedy(three, row, slot=slot) for slot, row in enumerate(rows)]
    turns = [[next(row) for row in together] for _ in range(12)]
    assert [list(row) for row in zip(*turns, strict=True)] == alone


def test_a_slot_forgets_what_it_held(tiny_artifact: Path) -> None:
    backend = open_cpu(tiny_artifact)
    long, short = prompts((300, 4), 384)
    fresh = prefill(backend, short)
    prefill(backend, long)
    np.testing.assert_array_equal(prefill(backend, short), fresh)


def test_the_manifest_says_what_the_model_is(tiny_llama: Path, make_artifact: MakeArtifact) -> None:
    manifest = Artifact.open(make_artifact(tiny_llama, "fp32")).manifest
    assert manifest.family == "llama"
    assert manifest.precision == "fp32"
    assert manifest.source.format == "safetensors"
    assert manifest.source.name == tiny_llama.name
    assert manifest.model_ref == f"file:{tiny_llama.name}"
    assert manifest.shapes.model_dump() == {
        "layers": 2,
        "hidden": 64,
        "intermediate": 128,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "vocab": 384,
        "context_length": 1024,
    }
    assert manifest.bos_token_id == 1
    assert manifest.eos_token_ids == (2, 0)
    assert manifest.chat_template is not None
