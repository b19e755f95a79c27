"""Every family of rerankers scores as ``transformers`` does, and what is none is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.makers import MakeArtifact, MakeEncoder
from support.rerankers import DOCUMENTS, HEAD, QUERY, logits, sigmoid
from support.tiny_encoders import CONTEXT, write_json
from support.tiny_llama import copy_of

from rbee_export import open_embedder, open_reranker
from rbee_export.cli import main
from rbee_export.errors import UnsupportedModel
from rbee_runtime import Reranker
from rbee_runtime.artifact import RerankerArtifact

Change = Callable[[Path], object]

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "distilbert": {},
    "mpnet": {},
    "modernbert": {},
    "modernbert-biases": {"classifier_pooling": "mean", "classifier_bias": True},
}


@pytest.fixture
def checkpoint(make_encoder: MakeEncoder, tmp_path: Path) -> Path:
    """A checkpoint to change."""
    return copy_of(make_encoder(modules=None, head=HEAD, num_labels=1), tmp_path)


def rewrite(name: str, **changed: Any) -> Change:
    def change(checkpoint: Path) -> None:
        file = checkpoint / name
        before = json.loads(file.read_text()) if file.is_file() else {}
        write_json(file, {**before, **changed})

    return change


def modules(*kinds: str) -> Change:
    listed = [
        {"idx": i, "name": str(i), "path": "" if i == 0 else kind, "type": f"a.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    return lambda checkpoint: write_json(checkpoint / "modules.json", listed)


@pytest.mark.parametrize("name", FAMILIES)
def test_parity(name: str, make_encoder: MakeEncoder, make_reranker: MakeArtifact) -> None:
    checkpoint = make_encoder(name, modules=None, head=HEAD, num_labels=1, **FAMILIES[name])
    theirs = sigmoid(logits(checkpoint, QUERY, DOCUMENTS, CONTEXT))
    assert theirs.std() > 0.02
    for precision, close in (("fp32", 1e-5), ("int8", 0.05)):
        with Reranker.load(make_reranker(checkpoint, precision), backend="cpu") as reranker:
            ours = reranker.score(QUERY, DOCUMENTS)
        np.testing.assert_allclose(ours, theirs, atol=close, rtol=0)


def test_both_types_of_tokens_count(checkpoint: Path, make_reranker: MakeArtifact) -> None:
    theirs = sigmoid(logits(checkpoint, QUERY, DOCUMENTS, CONTEXT))
    rewrite("tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])(checkpoint)
    untold = sigmoid(logits(checkpoint, QUERY, DOCUMENTS, CONTEXT))
    with Reranker.load(make_reranker(checkpoint, "fp32"), backend="cpu") as reranker:
        ours = reranker.score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(ours, untold, atol=1e-5, rtol=0)
    assert np.abs(ours - theirs).max() > 0.01


IDENTITY = "torch.nn.modules.linear.Identity"
SAID: dict[str, Change] = {
    "before version 4": rewrite("config.json", sbert_ce_default_activation_function=IDENTITY),
    "since then": rewrite("config.json", sentence_transformers={"activation_fn": IDENTITY}),
    "since modules are listed": lambda checkpoint: (
        rewrite("config_sentence_transformers.json", activation_fn=IDENTITY)(checkpoint),
        modules("Transformer")(checkpoint),
    ),
}


@pytest.mark.parametrize("how", SAID)
def test_scores_as_they_are(how: str, checkpoint: Path, tmp_path: Path) -> None:
    SAID[how](checkpoint)
    out = tmp_path / "out"
    flags = ["--precision", "fp32", "--no-verify"]
    assert main(["--model", str(checkpoint), "--out", str(out), *flags]) == 0
    with Reranker.load(out, backend="cpu") as reranker:
        ours = reranker.score(QUERY, DOCUMENTS)
    theirs = logits(checkpoint, QUERY, DOCUMENTS, CONTEXT)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_export_inspect_and_verify(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "artifact"
    rewrite("tokenizer_config.json", model_max_length=48)(checkpoint)
    assert main(["--model", str(checkpoint), "--out", str(out)]) == 0
    assert "same order" in capsys.readouterr().err
    assert main(["inspect", str(out)]) == 0
    told = capsys.readouterr().out
    assert "a score of a query and a document, of the first token, through a sigmoid" in told
    assert "pairs of 48 at most" in told
    assert main(["inspect", str(out), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert (manifest["format_version"], manifest["task"]) == (8, "rerank")
    fidelity = RerankerArtifact.open(out).manifest.fidelity
    assert fidelity is not None
    assert fidelity.pairs == 8 * fidelity.queries
    assert 0.0 < fidelity.mean_difference <= fidelity.largest_difference < 0.1
    assert 0.8 < fidelity.agreement <= 1.0
    assert main(["verify", str(out)]) == 0
    assert main(["verify", str(out), "--model", str(checkpoint)]) == 0
    assert "pairs of" in capsys.readouterr().err


def without_template(checkpoint: Path) -> None:
    file = checkpoint / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": None}))


LABELS = {str(number): f"LABEL_{number}" for number in range(3)}
REFUSED: dict[str, tuple[Change, str]] = {
    "several labels": (
        rewrite("config.json", id2label=LABELS),
        "BertForSequenceClassification with 3 labels classifies texts; rerankers have one",
    ),
    "a decoder": (
        rewrite(
            "config.json", model_type="qwen3", architectures=["Qwen3ForSequenceClassification"]
        ),
        "Qwen3ForSequenceClassification is no reranker that is supported: encoders",
    ),
    "a decoder that says yes or no": (
        lambda checkpoint: (
            rewrite("config.json", model_type="qwen3", architectures=["Qwen3ForCausalLM"])(
                checkpoint
            ),
            modules("Transformer", "LogitScore")(checkpoint),
        ),
        "decoders are not",
    ),
    "an activation": (
        rewrite("config.json", sentence_transformers={"activation_fn": "torch.nn.Tanh"}),
        "the activation 'torch.nn.Tanh' of scores is not supported",
    ),
    "a prompt": (
        rewrite("config_sentence_transformers.json", default_prompt_name="query"),
        "prompts of rerankers",
    ),
    "no template of pairs": (without_template, "puts nothing between two texts"),
    "no room": (
        rewrite("sentence_bert_config.json", max_seq_length=4),
        "4 tokens leave no room for two texts",
    ),
    "optimum": (lambda _: None, "is a reranker; optimum exports language models only"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(
    kind: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, named = REFUSED[kind]
    change(checkpoint)
    more = ["--exporter", "optimum"] if kind == "optimum" else []
    assert main(["--model", str(checkpoint), "--out", str(tmp_path / "out"), *more]) == 3
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert named in said


def test_an_encoder_is_no_reranker(make_encoder: MakeEncoder, checkpoint: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'bert' is no reranker"):
        open_reranker(make_encoder())
    with pytest.raises(UnsupportedModel, match="BertForSequenceClassification classifies"):
        open_embedder(checkpoint)
