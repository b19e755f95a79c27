"""Engines of embedding models, beside each other."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support.makers import MakeEncoder

from rbee_bench.cli import main
from rbee_bench.embed import Alike, Embed, Embedding, Texts
from rbee_bench.embedders import EmbedderProcess
from rbee_bench.embedders.eager import EagerEmbedder
from rbee_bench.embedders.embedder import Embedder, EmbedderSpec, Vectors, in_batches
from rbee_bench.embedders.onnxruntime import OnnxRuntimeEmbedder
from rbee_bench.encoder_subject import EncoderSubject
from rbee_bench.engine_process import PeerFault
from rbee_bench.percentiles import Percentiles
from rbee_bench.report_embed import embed_report
from rbee_bench.texts import QUESTIONS, evenly, paragraphs

ENGINES = ["int8", "fp32", "ONNX Runtime", "ONNX Runtime int8"]
TORCH = ["eager torch bf16", "eager torch fp32"]


@pytest.fixture(scope="module")
def subject(make_encoder: MakeEncoder, tmp_path_factory: pytest.TempPathFactory) -> EncoderSubject:
    return EncoderSubject.open(make_encoder(), tmp_path_factory.mktemp("embed"), 1)


def _spec(subject: EncoderSubject, label: str) -> EmbedderSpec:
    specs = {spec.label: spec for spec in subject.specs(lambda *_: None)}
    return specs[label]


def test_the_program_measures_what_is_installed(
    subject: EncoderSubject,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # no vLLM
    file = tmp_path / "embed.json"
    model = ["--model", str(subject.directory), "--artifacts", str(subject.artifacts)]
    short = ["--rounds", "1", "--texts", "8"]
    assert main(["embed", *model, *short, "--json", str(file)]) == 0
    result: dict[str, Any] = json.loads(file.read_text())["embed"]
    assert [part["work"] for part in result["parts"]] == ["alone", "together", "bulk"]
    assert result["parts"][0]["texts"] == len(QUESTIONS)
    for part in result["parts"]:
        assert part["tokens"] > 2 * part["texts"]
        labels = [row["label"] for row in part["rows"]]
        assert [label for label in labels if label in ENGINES + TORCH] == ENGINES + TORCH
        assert all(len(row["rates"]) == 1 and row["rates"][0] > 0 for row in part["rows"])
        assert [row["label"] for row in part["rows"] if row["ours"]] == ["int8", "fp32"]
    assert {"vLLM bf16"} <= result["skipped"].keys()
    alike = result["alike"]
    for label in ("fp32", "ONNX Runtime", "eager torch fp32"):
        assert alike[label]["least"] > 0.9999
        assert alike[label]["found"] > 0.9
    assert alike["int8"]["mean"] > 0.99
    shown = capsys.readouterr().out
    assert "One question a call" in shown
    assert "Vectors beside those of eager torch fp32" in shown
    assert "vLLM bf16: skipped, not installed: no vllm program on the path" in shown


def test_an_engine_answers_from_its_process(subject: EncoderSubject, tmp_path: Path) -> None:
    spec = _spec(subject, "fp32")
    assert EmbedderSpec.from_json(spec.to_json()) == spec
    with EmbedderProcess(spec) as engine:
        vectors = engine.embed(["a text", "another", "a text"], tmp_path / "vectors.npy")
        waits = engine.time([["a text"], ["another", "a third"]])
    assert vectors.shape == (3, subject.checkpoint.config.hidden)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    assert len(waits.seconds) == 2
    assert waits.total == sum(waits.seconds) > 0


def test_a_prompt_comes_before_every_text(subject: EncoderSubject) -> None:
    plain = _spec(subject, "eager torch fp32")
    expected = EagerEmbedder(plain).embed(["query: a text"])
    engines: dict[str, Callable[[EmbedderSpec], Embedder]] = {
        "eager torch fp32": EagerEmbedder,
        "ONNX Runtime": OnnxRuntimeEmbedder,
    }
    for label, opened in engines.items():
        engine = opened(dataclasses.replace(_spec(subject, label), prompt="query: "))
        np.testing.assert_allclose(engine.embed(["a text"]), expected, atol=1e-5)


def test_what_cannot_be_opened_says_why_in_one_line(
    subject: EncoderSubject, tmp_path: Path
) -> None:
    spec = dataclasses.replace(_spec(subject, "fp32"), model=tmp_path / "nothing")
    with pytest.raises(PeerFault, match="no such artifact directory") as caught:
        EmbedderProcess(spec)
    assert "\n" not in str(caught.value)


def test_artifacts_are_made_once(make_encoder: MakeEncoder, tmp_path: Path) -> None:
    made: list[str] = []

    def artifact(checkpoint: Path) -> Path:
        opened = EncoderSubject.open(checkpoint, tmp_path, 1)
        return opened.artifact("int8", lambda what, *_: made.append(what)).path

    first = artifact(make_encoder())
    assert made
    made.clear()
    assert artifact(make_encoder()) == first
    assert not made


@pytest.mark.parametrize(
    ("model", "complaint"),
    [("nothing", "no such directory"), ("file", "no such directory"), ("", "missing")],
)
def test_a_model_that_is_none(
    model: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("text")
    arguments = ["embed", "--artifacts", str(tmp_path), "--model", str(tmp_path / model)]
    if model:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    else:
        assert main(arguments) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("rbee-bench")
    assert complaint in said
    assert "\n" not in said


@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=40), size=st.integers(1, 50))
def test_batches_keep_the_order_of_texts(texts: list[str], size: int) -> None:
    sizes: list[int] = []

    def embed(some: list[str]) -> Vectors:
        assert [len(text) for text in some] == sorted(map(len, some), reverse=True)
        sizes.append(len(some))
        return np.array([[len(text), hash(text) % 1000] for text in some], np.float32)

    vectors = in_batches(texts, size, embed)
    assert vectors.tolist() == [[len(text), hash(text) % 1000] for text in texts]
    assert sum(sizes) == len(texts)
    assert max(sizes) <= size


def test_the_texts_are_prose_of_many_lengths() -> None:
    texts = paragraphs()
    assert len(set(texts)) == len(texts) >= 512
    lengths = [len(text) for text in texts]
    assert np.percentile(lengths, 90) > 4 * np.percentile(lengths, 10)
    assert not any("\n" in text or "  " in text for text in texts)
    assert len(set(QUESTIONS)) == len(QUESTIONS) == 32
    assert evenly(texts, 10_000) == texts
    assert evenly(["a", "b", "c", "d"], 2) == ["a", "c"]


def _embed(alike: dict[str, Alike]) -> Embed:
    waits = Percentiles(0.002, 0.004, 0.005)
    rows = (
        Embedding("int8", True, "ours 1", (300.0, 310.0, 300.0, 305.0), waits),
        Embedding("other", False, "other 2", (100.0, 102.0, 100.0, 101.0), waits),
    )
    parts = (Texts("alone", 32, 320, rows), Texts("bulk", 500, 30_000, rows))
    return Embed(parts, alike, "reference", {"absent": "not installed: no module"}, 0.0)


def _shown(result: Embed) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(embed_report(result))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_report() -> None:
    text = _shown(_embed({"int8": Alike(0.9991, 0.991, 1.0), "other": Alike(0.5, 0.1, 0.2)}))
    lines = text.splitlines()
    row = next(line for line in lines if "│ int8" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")][:4] == [
        *("int8", "302", "3025", "2.00 / 4.00"),
    ]
    assert "500 paragraphs in one call, 60 tokens each" in " ".join(text.split())
    assert "3.01 x" in text
    assert "0.99910" in text
    assert "other: wrong, however fast" in text
    assert "int8: wrong" not in text
    assert "absent: skipped, not installed: no module" in text
    assert "ours 1; other 2" in text


def test_without_the_reference_no_vector_is_judged() -> None:
    assert "Vectors" not in _shown(_embed({}))
