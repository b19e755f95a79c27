"""Every family computes what ``transformers`` computes, from every source, in every precision.

The names of the cases are a table: family, source, precision.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from support.family import Off
from support.family_table import BASE, FAMILIES, FOR_GPUS
from support.gguf_conversion import save_gguf
from support.held import blocks_by_name
from support.makers import MakeArtifact, MakeFamily, TinyGguf
from support.running import forced_logits, mean_divergence, median_divergence, open_cpu, prefill
from support.tiny_families import in_newer_form, load_without
from support.tiny_llama import copy_of, load_reference, reference_logits, with_weights

from gpu_check.family_configs import ORIGINAL_CONTEXT, WINDOW
from rbee_export import open_checkpoint
from rbee_export.checkpoint.config import DeltaNet, Mamba2, ShortConvolution
from rbee_export.checkpoint.hf_layout import locate
from rbee_export.evaluation import artifact_logits
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import Backend
from rbee_runtime.step import PREFILL_CHUNK, Step

COMPLETION = 24
SHORT, LONG = 9, PREFILL_CHUNK + 44
assert WINDOW < LONG - PREFILL_CHUNK
assert SHORT + COMPLETION < ORIGINAL_CONTEXT < LONG
IDS = np.random.default_rng(13).integers(3, 384, LONG).tolist()

MakeFamilyGguf = Callable[..., TinyGguf]
Note = Callable[[str, str, float], None]


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Note:
    """``note(family, column, figure)``: fills a cell of the table that ``conftest.py`` prints."""

    def fill(family: str, column: str, figure: float) -> None:
        record_property("family", (family, column, f"{figure:.1e}"))

    return fill


@pytest.fixture(scope="module")
def make_family_gguf(tmp_path_factory: pytest.TempPathFactory) -> MakeFamilyGguf:
    """``make_family_gguf(checkpoint, kind, **options)``: its GGUF file; see ``save_gguf``."""
    root = tmp_path_factory.mktemp("family-gguf")

    def make(checkpoint: Path, kind: str, **options: Any) -> TinyGguf:
        file = root / f"{checkpoint.name}-{kind}.gguf"
        return TinyGguf(file, checkpoint, save_gguf(file, checkpoint, kind, **options))

    return make


@functools.cache
def reference(checkpoint: Path) -> Any:
    """Return ``transformers``' model, opened once: copy it before changing it."""
    return load_reference(checkpoint)


def theirs_of(checkpoint: Path, ids: Sequence[int]) -> NDArray[np.float32]:
    """Return ``transformers``' logits after each of ``ids``, computed once."""
    return _theirs_of(checkpoint, tuple(ids))


@functools.cache
def _theirs_of(checkpoint: Path, ids: tuple[int, ...]) -> NDArray[np.float32]:
    logits = reference_logits(reference(checkpoint), ids)
    logits.flags.writeable = False
    return logits


def theirs_with(
    checkpoint: Path, weights: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return ``transformers``' logits after each of ``FORCED``, with other weights."""
    return reference_logits(with_weights(copy.deepcopy(reference(checkpoint)), weights), FORCED)


def complete(backend: Backend, prompt: list[int]) -> tuple[list[int], NDArray[np.float32]]:
    """Return the likeliest continuation, and the logits after the prompt and each of its tokens."""
    length = len(prompt) + COMPLETION
    logits = [prefill(backend, prompt, length=length)]
    completion = []
    for past in range(len(prompt), length):
        completion.append(int(logits[-1].argmax()))
        logits.append(backend.run(Step.of(0, past, completion[-1:], length))[0].copy())
    return completion, np.stack(logits)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        pytest.param(name, source, id=f"{name}-{source}-fp32")
        for name, family in FAMILIES.items()
        for source in ("safetensors", *(["gguf"] if family.gguf else []))
    ],
)
def test_parity(
    name: str,
    source: str,
    make_family: MakeFamily,
    make_family_gguf: MakeFamilyGguf,
    make_artifact: MakeArtifact,
    *,
    note: Note,
) -> None:
    original = checkpoint = make_family(name)
    if source == "gguf":
        checkpoint = make_family_gguf(original, "F32", embedding_kind="F32").path
    backend = open_cpu(make_artifact(checkpoint, "fp32"))
    furthest = 0.0
    for length in (SHORT, LONG):
        prompt = IDS[:length]
        completion, ours = complete(backend, prompt)
        theirs = theirs_of(original, prompt + completion)[length - 1 :]
        np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=0)
        assert completion == theirs[:-1].argmax(-1).tolist()
        furthest = max(furthest, float(np.abs(ours - theirs).max()))
    note(name, f"{source} fp32", furthest)


@pytest.mark.parametrize("chunk", [1, 37, LONG])
@pytest.mark.parametrize(
    "name",
    [
        *("mistral", "gemma2", "gemma3", "phi3-longrope", "smollm3", "ministral-3", "hunyuan"),
        *("qwen3-next-dense", "gpt-oss", "lfm2", "granite-4-dense"),
    ],
)
def test_chunks_of_any_size_make_the_same_prompt(
    name: str, chunk: int, make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    checkpoint = make_family(name)
    # A window's cache has room for a chunk: with small ones, it is full before the prompt ends.
    backend = open_cpu(make_artifact(checkpoint, "fp32"), chunk=chunk)
    theirs = theirs_of(checkpoint, IDS)[-1]
    np.testing.assert_allclose(prefill(backend, IDS, chunk=chunk), theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["phi3-longrope", "phi3-mini-4"])
def test_the_length_a_request_may_reach_chooses_the_frequencies(
    name: str, make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    checkpoint = make_family(name)
    scaling = FAMILIES[name].config["rope_scaling"]
    always_long = {**scaling, "short_factor": scaling["long_factor"]}
    model = reference(checkpoint)
    long = load_without(checkpoint, Off({"rope_scaling": always_long}))
    backend = open_cpu(make_artifact(checkpoint, "fp32"))
    for prompt, length, theirs in (
        (IDS[:ORIGINAL_CONTEXT], 0, model),
        (IDS[: ORIGINAL_CONTEXT + 1], 0, model),
        (IDS[:SHORT], ORIGINAL_CONTEXT, model),
        (IDS[:SHORT], ORIGINAL_CONTEXT + 1, long),
    ):
        ours = prefill(backend, prompt, length=length, chunk=50)
        np.testing.assert_allclose(ours, reference_logits(theirs, prompt)[-1], atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    "name",
    [
        "llama-3",
        "mistral",
        "ministral-3",
        "qwen2-yarn",
        "phi",
        "phi3-mini-4",
        "gemma3-renamed",
        "gemma3-text",
    ],
)
def test_configurations_of_a_newer_form(
    name: str, make_family: MakeFamily, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    checkpoint = make_family(name)
    backend = open_cpu(make_artifact(in_newer_form(checkpoint, tmp_path), "fp32"))
    for prompt in (IDS[:SHORT], IDS):
        theirs = theirs_of(checkpoint, prompt)[-1]
        np.testing.assert_allclose(prefill(backend, prompt), theirs, atol=2e-4, rtol=0)


def test_the_first_models_that_see_have_their_settings_in_one(
    make_family: MakeFamily, tmp_path: Path
) -> None:
    checkpoint = make_family("qwen2-vl")
    flat = copy_of(checkpoint, tmp_path)
    settings = json.loads((flat / "config.json").read_text(encoding="utf-8"))
    rope = {"type": "mrope", "mrope_section": [2, 3, 3]}
    text = {**settings.pop("text_config"), "rope_scaling": rope}
    (flat / "config.json").write_text(json.dumps({**text, **settings}), encoding="utf-8")
    assert open_checkpoint(flat).config == open_checkpoint(checkpoint).config


@pytest.mark.parametrize(
    ("name", "peculiarity"),
    [
        pytest.param(name, peculiarity, id=f"{name}-{peculiarity}")
        for name, family in FAMILIES.items()
        for peculiarity in family.off
    ],
)
def test_a_decoder_without_it_would_be_found_out(
    name: str, peculiarity: str, make_family: MakeFamily
) -> None:
    """What the checkpoints are made for: ``transformers`` itself tells the difference."""
    checkpoint = make_family(name)
    right = theirs_of(checkpoint, IDS)
    wrong = reference_logits(load_without(checkpoint, FAMILIES[name].off[peculiarity]), IDS)
    assert np.abs(right - wrong).max() > 1e-3


COSTS: Mapping[str, float] = {"fp16": 1e-4, "int8": 0.03, "int4": 1.0}
"""The most that a precision may cost, in nats a token, with weights as wild as these."""

ROUNDING = 0.02
"""The most that rounding activations to eight bits may, as the kernel of blocks does."""

FORCED, PROMPT = IDS[:72], 48


Divergence = Callable[[NDArray[np.float32], NDArray[np.float32]], float]


def divergence_of(name: str) -> Divergence:
    return median_divergence if FAMILIES[name].experts else mean_divergence


MIXERS = {
    DeltaNet: [f"delta_{part}" for part in "qkvzo"],
    ShortConvolution: ["conv_in", "conv_o"],
    Mamba2: ["mamba_in", "mamba_o"],
}


def held_weights(checkpoint: Path, artifact: Path) -> dict[str, NDArray[np.float32]]:
    """Return what an artifact's matrices stand for, by the checkpoint's names for them."""
    opened = open_checkpoint(checkpoint)
    config = opened.config
    stored = load_file(checkpoint / "model.safetensors")
    names = ["embedding", *([] if config.tied_embedding else ["lm_head"])]
    plain = [*(["gate"] if config.gated else []), "up", "down"]
    sparse = ["expert_gate", "expert_up", "expert_down"]
    if config.experts and config.experts.shared:
        sparse += ["shared_gate", "shared_up", "shared_down"]
    for i in range(config.layers):
        mlp = sparse if config.experts and i in config.experts.layers else plain
        mixer = ["q", "k", "v", "o", *(["q_gate"] if config.output_gate else [])]
        if config.mixer and i in config.mixer.layers:
            mixer = MIXERS[type(config.mixer)]
        names += [f"layers.{i}.{part}" for part in (*mixer, *mlp)]
    blocks = blocks_by_name(artifact, {name: opened.tensor(name).shape[0] for name in names})
    held = set()
    for name in names:
        place = locate(name, config, stored)
        if name in blocks:
            values = blocks[name].dequantize()
            for expert, part in enumerate(np.split(values, place.experts or 1)):
                own = place.name.format(expert)
                whole = stored[own][expert] if stored[own].ndim == 3 else stored[own]
                held.add(own)
                if place.inputs_first:
                    whole.T[place.rows or slice(None)] = part
                    continue
                heads = whole.reshape(-1, place.group or len(whole), whole.shape[-1])
                rows = np.arange(heads.shape[1])[place.rows or slice(None)]
                rows = rows if place.order is None else rows[place.order]
                heads[:, rows] = np.stack(np.split(part, len(heads)))
    return {name: stored[name] for name in held}


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, id=f"{name}-safetensors-{precision}")
        for name, family in FAMILIES.items()
        for precision in COSTS
        if precision in family.precisions and (family.for_gpus or precision != "fp16")
    ],
)
def test_fidelity(
    name: str, precision: str, make_family: MakeFamily, make_artifact: MakeArtifact, note: Note
) -> None:
    checkpoint = make_family(name)
    artifact = make_artifact(checkpoint, precision)
    ours = forced_logits(open_cpu(artifact), FORCED, PROMPT)
    original = theirs_of(checkpoint, FORCED)[PROMPT - 1 :]
    divergence = divergence_of(name)
    cost = divergence(ours, original)
    assert cost < COSTS[precision]
    held = theirs_with(checkpoint, held_weights(checkpoint, artifact))[PROMPT - 1 :]
    assert divergence(ours, held) < ROUNDING
    four = [g.held for g in Artifact.open(artifact).manifest.weights if g.held.startswith("4-bit")]
    assert set(four) == ({"4-bit, blocks of 32, calibrated"} if precision == "int4" else set())
    note(name, precision, cost)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=f"{name}-safetensors-bf16")
        for name, family in FOR_GPUS.items()
        if "bf16" in family.precisions
    ],
)
def test_fidelity_of_weights_in_bfloat16(
    name: str, make_family: MakeFamily, make_artifact: MakeArtifact, note: Note
) -> None:
    """As a report measures it: CPUs have no operators of that type."""
    checkpoint = make_family(name)
    ours = artifact_logits(Artifact.open(make_artifact(checkpoint, "bf16")), FORCED)[PROMPT - 1 :]
    cost = mean_divergence(ours, theirs_of(checkpoint, FORCED)[PROMPT - 1 :])
    assert cost < 0.03
    note(name, "bf16", cost)


BLOCKS: Mapping[str, Any] = {
    "kind": "Q4_0",
    "embedding_kind": "Q8_0",
    "kinds": {
        f"blk.{i}.{part}.weight": kind
        for i in range(8)
        for part, kind in {
            "attn_v": "Q8_0",
            "attn_qkv": "Q4_1",
            "attn_output": "Q5_0",
            "ffn_up": "Q4_1",
            "ffn_down": "Q5_1",
            "ffn_gate_exps": "Q4_1",
            "ffn_up_exps": "Q4_1",
            "ffn_down_exps": "Q5_1",
        }.items()
    },
}
K_BLOCKS: Mapping[str, Any] = {
    "kind": "Q4_K",
    "embedding_kind": "Q6_K",
    "kinds": {
        f"blk.{i}.{part}.weight": kind
        for i in range(8)
        for part, kind in {
            "attn_v": "Q6_K",
            "attn_qkv": "Q5_K",
            "ffn_down": "Q6_K",
            "ffn_down_exps": "Q6_K",
        }.items()
    },
}
WIDE: Mapping[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
}
"""Blocks of 256 need rows of as many."""
K_FAMILIES = (
    "llama",
    "qwen2",
    "qwen3",
    "phi3",
    "gemma2",
    "gemma3-text",
    "smollm3",
    "olmo2",
    "mixtral",
    "qwen2-moe",
    "qwen3-moe",
)


@pytest.mark.parametrize(
    ("name", "wide"),
    [
        *(
            pytest.param(name, False, id=f"{name}-gguf-blocks")
            for name, family in FAMILIES.items()
            if family.gguf and family.blocks
        ),
        *(pytest.param(name, True, id=f"{name}-gguf-k-blocks") for name in K_FAMILIES),
    ],
)
def test_fidelity_to_the_blocks_of_a_file(
    name: str,
    wide: bool,
    make_family: MakeFamily,
    make_family_gguf: MakeFamilyGguf,
    make_artifact: MakeArtifact,
    *,
    note: Note,
) -> None:
    known = {**BASE, **FAMILIES[name].config}
    changed = {key: value for key, value in WIDE.items() if wide and key in known}
    blocks = K_BLOCKS if wide else BLOCKS
    file = make_family_gguf(make_family(name, **changed), **blocks)
    theirs = theirs_with(file.source, file.weights)[PROMPT - 1 :]
    ours = forced_logits(open_cpu(make_artifact(file.path, "gguf")), FORCED, PROMPT)
    cost = divergence_of(name)(ours, theirs)
    assert cost < ROUNDING
    note(name, "gguf K-blocks" if wide else "gguf blocks", cost)
