"""The embedder over a real artifact, as a caller sees it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cuda_on_host import CudaOnHost
from support.fake_cuda_library import ILLEGAL_ADDRESS, FakeCuda
from support.makers import MakeArtifact, MakeEncoder
from support.tiny_encoders import CONTEXT, VOCAB

import rbee_runtime.embedding.encoder
from rbee_export import open_embedder
from rbee_export.embedder_evaluation import reference_embeddings
from rbee_runtime import Embedder
from rbee_runtime.artifact import MANIFEST_NAME, EmbedderArtifact
from rbee_runtime.backend.session import open_session
from rbee_runtime.embedding.encoder import Encoder
from rbee_runtime.embedding.request import EmbeddingRequest
from rbee_runtime.errors import (
    ArtifactError,
    ContextOverflow,
    DeviceError,
    DeviceLost,
    InvalidRequest,
    InvalidSetting,
)
from rbee_runtime.status import LoadProgress
from rbee_runtime.tokenizer import Tokenizer

TEXTS = ["A worker reads", "Once upon a time there was a hive, and in the hive a queen", "x"]


@pytest.fixture(scope="module")
def checkpoint(make_encoder: MakeEncoder) -> Path:
    return make_encoder()


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, make_embedder: MakeArtifact) -> Path:
    return make_embedder(checkpoint, "fp32")


@pytest.fixture(scope="module")
def embedder(artifact: Path) -> Iterator[Embedder]:
    with Embedder.load(artifact, backend="cpu") as embedder:
        yield embedder


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    """An artifact to damage."""
    return Path(shutil.copytree(artifact, tmp_path / "artifact"))


def rewrite(artifact: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = artifact / MANIFEST_NAME
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def test_vectors_are_those_of_the_weights(embedder: Embedder, checkpoint: Path) -> None:
    ids = [embedder.tokenizer.encode(text) for text in TEXTS]
    expected = reference_embeddings(open_embedder(checkpoint), ids)
    vectors = embedder.embed(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, embedder.dim)
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 1 - 1e-6), ("int8", 0.9995)])
@given(lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_company_does_not_change_a_vector(
    precision: str,
    least: float,
    lengths: list[int],
    checkpoint: Path,
    make_embedder: MakeArtifact,
) -> None:
    draw = np.random.default_rng(sum(lengths))
    inputs = tuple(tuple(draw.integers(5, VOCAB, length).tolist()) for length in lengths)
    with Embedder.load(make_embedder(checkpoint, precision)) as embedder:

        def run(*inputs: tuple[int, ...]) -> list[Any]:
            events = list(embedder.stream(EmbeddingRequest("a", inputs)))
            assert events[-1].tokens == sum(map(len, inputs))
            return [event.vector for event in events[:-1]]  # type: ignore[union-attr]

        alone = np.stack([run(one)[0] for one in inputs])
        assert (np.stack(run(*inputs)) * alone).sum(-1).min() > least


def test_texts_beyond_a_pack_run_alone(
    embedder: Embedder, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["x", "a hive " * 40, "b", "a queen " * 30, "c"]
    monkeypatch.setattr(rbee_runtime.embedding.encoder, "PACK_TOKENS", 16)
    with Embedder.load(artifact) as small:
        np.testing.assert_allclose(small.embed(texts), embedder.embed(texts), atol=1e-5)


def test_more_texts_than_a_request_may_have(embedder: Embedder) -> None:
    texts = [TEXTS[number % 3] for number in range(2051)]
    vectors, expected = embedder.embed(texts), embedder.embed(TEXTS)
    np.testing.assert_allclose(vectors, np.resize(expected, vectors.shape), atol=1e-5)


def test_a_bad_text_is_named_by_its_place_among_all(embedder: Embedder) -> None:
    with pytest.raises(InvalidRequest, match=r"input\[2050\] must not be empty"):
        embedder.embed([*["x"] * 2050, ""])
    with pytest.raises(InvalidRequest, match="input must not be empty"):
        embedder.embed([""])
    with pytest.raises(InvalidRequest, match="a list of texts"):
        embedder.embed("x")


def test_no_texts(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, embedder.dim)


def test_the_prompt_comes_before_every_text(embedder: Embedder, copy: Path) -> None:
    rewrite(copy, lambda m: m["embedding"].update(prompt="query: "))
    with Embedder.load(copy) as prompted:
        vectors = prompted.embed(TEXTS)
    expected = embedder.embed([f"query: {text}" for text in TEXTS])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "input must not be empty"),
        (("",), "input must not be empty"),
        (("a", ""), r"input\[1\] must not be empty"),
        (("a", ()), r"input\[1\] must not be empty"),
        (("a",) * 2049, "input has 2049 texts, and a request may have 2048"),
        (((5, VOCAB),), rf"input has token ids outside 0\.\.{VOCAB - 1}"),
        (("a", (-1,)), rf"input\[1\] has token ids outside 0\.\.{VOCAB - 1}"),
        (((2**70,),), r"outside 0\.\."),
        (("a", "b\udc80"), r"input\[1\] has an unpaired surrogate"),
    ],
)
def test_inputs_that_are_not_of_this_model(
    inputs: tuple[Any, ...], message: str, embedder: Embedder
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        list(embedder.stream(EmbeddingRequest("bad", inputs)))
    assert caught.value.field in {"input", "input[1]"}
    assert caught.value.field in str(caught.value)
    assert embedder.status().queued == 0


def test_a_text_may_fill_the_context_and_not_more(embedder: Embedder) -> None:
    assert embedder.context_length == CONTEXT
    list(embedder.stream(EmbeddingRequest("full", ((5,) * CONTEXT,))))
    numbers = rf"input\[1\] has {CONTEXT + 1} tokens, more than the context length of {CONTEXT}"
    with pytest.raises(ContextOverflow, match=numbers) as caught:
        list(embedder.stream(EmbeddingRequest("more", ("a", (5,) * (CONTEXT + 1)))))
    assert (caught.value.field, caught.value.context_length) == ("input[1]", CONTEXT)


def test_an_input_is_called_as_its_request_does(embedder: Embedder) -> None:
    too_long = EmbeddingRequest("more", ((5,) * (CONTEXT + 1),), called="prompt")
    with pytest.raises(ContextOverflow, match=r"^prompt has ") as caught:
        list(embedder.stream(too_long))
    assert caught.value.field == "prompt"


def test_it_knows_itself(embedder: Embedder, artifact: Path) -> None:
    opened = EmbedderArtifact.open(artifact)
    assert embedder.backend_name == "cpu"
    assert embedder.manifest == opened.manifest
    status = embedder.status()
    assert (status.slots_available, status.queued) == (status.slots_total, 0)
    assert (status.healthy, status.fault) == (True, None)
    memory = embedder.memory()
    assert (memory.weights, memory.cache) == (opened.weight_bytes, 0)
    assert memory.total == memory.weights + memory.workspace
    assert not embedder.cancel("nobody")


def test_loading_reports_its_progress(artifact: Path) -> None:
    seen: list[LoadProgress] = []
    with Embedder.load(artifact, progress=seen.append):
        *loading, ready = seen
    assert {progress.stage for progress in loading} == {"loading_to_vram"}
    assert (ready.stage, ready.layers_loaded, ready.layers_total) == ("ready", 2, 2)
    assert loading[-1].bytes_loaded == EmbedderArtifact.open(artifact).weight_bytes


def test_what_cannot_be_loaded(artifact: Path, tiny_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such artifact directory"):
        Embedder.load(str(tmp_path / "gone"))
    with pytest.raises(ArtifactError, match="is a language model: rbee-generate"):
        Embedder.load(tiny_artifact)
    with pytest.raises(InvalidSetting, match="'abacus' is not known"):
        Embedder.load(artifact, backend="abacus")
    with pytest.raises(DeviceError, match="device 99"):
        Embedder.load(artifact, backend="cpu", device=99)
    with pytest.raises(DeviceError, match="run on cpu and cuda, not on tensorrt"):
        Embedder.load(artifact, backend="tensorrt")
    with pytest.raises(DeviceError, match="export with --target cuda"):
        Embedder.load(artifact, backend="cuda")
    with pytest.raises(InvalidSetting):
        Embedder.load(artifact, max_queue=-1)


@pytest.mark.parametrize("role", ["graph", "weights", "tokenizer"])
def test_a_flipped_bit(role: Any, copy: Path) -> None:
    file = EmbedderArtifact.open(copy).file(role)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{file.name} is corrupt"):
        Embedder.load(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["embedding"].update(dim=65), r"are not float of \[texts, 65\]"),
        (lambda m: m.update(files=[]), "exactly one graph file"),
    ],
)
def test_a_manifest_of_another_graph(
    change: Callable[[dict[str, Any]], object], said: str, copy: Path
) -> None:
    rewrite(copy, change)
    with pytest.raises(ArtifactError, match=said):
        Embedder.load(copy)


def test_a_graph_of_a_language_model(copy: Path, tiny_artifact: Path) -> None:
    shutil.copy(tiny_artifact / "model.onnx.data", copy)
    shutil.copy(tiny_artifact / "model.onnx", copy)
    theirs = json.loads((tiny_artifact / MANIFEST_NAME).read_text())["files"]
    kept = [entry for entry in theirs if entry["path"].startswith("model.onnx")]

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"] = [e for e in manifest["files"] if e["role"] == "tokenizer"] + kept

    rewrite(copy, change)
    with pytest.raises(ArtifactError, match="lacks the input 'cu_seqlens'"):
        Embedder.load(copy)


PROBE = """
import sys
from rbee_runtime import {name}
{name}.load
loaded = {{name for name in sys.modules if name.startswith("rbee_runtime")}}
print(*(loaded & {{{others}}}))
"""


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("Engine", ["embedding", "embedder", "artifact.embedder_manifest"]),
        ("Embedder", ["engine", "loop", "scheduler", "sequence", "chat_template"]),
    ],
)
def test_who_runs_one_kind_imports_nothing_of_the_other(name: str, others: list[str]) -> None:
    listed = ", ".join(f'"rbee_runtime.{other}"' for other in others)
    program = PROBE.format(name=name, others=listed)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "\n"


# A GPU, as far as goes without one


def on_fake(artifact: Path, fake: FakeCuda) -> Embedder:
    opened, device = EmbedderArtifact.open(artifact), CudaOnHost(fake)
    session = open_session(opened.file("graph"), device, captures=False)
    tokenizer = Tokenizer.open(opened.file("tokenizer"), None, None, None)
    return Embedder(opened, tokenizer, Encoder(opened, session, device, native=False))


def test_a_gpu_gives_what_the_cpu_gives(checkpoint: Path, make_embedder: MakeArtifact) -> None:
    artifact = make_embedder(checkpoint, "fp16")
    texts = TEXTS * 30
    with Embedder.load(artifact, backend="cpu") as embedder:
        expected = embedder.embed(texts)
    with on_fake(artifact, FakeCuda()) as embedder:
        np.testing.assert_allclose(embedder.embed(texts), expected, atol=2e-3)
        assert embedder.backend_name == "cuda"


def test_a_gpu_that_fails(checkpoint: Path, make_embedder: MakeArtifact) -> None:
    fake = FakeCuda()
    with on_fake(make_embedder(checkpoint, "fp16"), fake) as embedder:
        embedder.embed(TEXTS)
        fake.broken = ILLEGAL_ADDRESS
        with pytest.raises(DeviceLost):
            embedder.embed(TEXTS)
        assert not embedder.status().healthy
