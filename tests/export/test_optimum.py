"""Decoders outside the family table, exported with optimum and served from their dynamic cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from support.collecting import submit
from support.running import greedy, open_cpu, prefill
from support.tiny_families import save_checkpoint
from support.tiny_llama import CHAT_TEMPLATE, copy_of, load_reference, reference_logits

from rbee_export.cli import main
from rbee_export.errors import CheckpointError, ExportError, UnsupportedModel
from rbee_export.optimum_path import INSTALL, Compiled, export_with_optimum, is_installed
from rbee_export.optimum_path.context import Context
from rbee_export.optimum_path.graph import Interface
from rbee_export.optimum_path.schedule import Schedule
from rbee_runtime.artifact import MANIFEST_NAME, Artifact, FileEntry, Manifest, Source
from rbee_runtime.engine import Engine
from rbee_runtime.request import GREEDY, Request
from rbee_runtime.step import PREFILL_CHUNK, Step

BASE: Mapping[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 64,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": [2, 0],
    "tie_word_embeddings": False,
}
LAYERS: Mapping[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4}
# Rotates a part of each head, runs attention and MLP side by side, takes position ids.
GPT_NEOX = {
    **LAYERS,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "rotary_pct": 0.5,
}
# Knows positions by ALiBi, takes no position ids, states no context length.
BLOOM = {"n_layer": 2, "n_head": 4}
ALIBI_IN_BFLOAT16 = {**LAYERS, "alibi": True, "multi_query": False}


@dataclass(frozen=True, slots=True)
class Made:
    checkpoint: Path
    artifact: Path


@dataclass(frozen=True, slots=True)
class Traced(Made):
    compiled: Compiled
    stages: list[str]


@dataclass(frozen=True, slots=True)
class Program(Made):
    said: str


@pytest.fixture(scope="session", autouse=True)
def optimum() -> None:
    if not is_installed():
        missing = f"optimum is not installed: {INSTALL}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.fixture(scope="session")
def neox(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Made by the program, which is not told which exporter to take."""
    root = tmp_path_factory.mktemp("neox")
    checkpoint, artifact = root / "tiny-neox", root / "artifact"
    save_checkpoint(checkpoint, "gpt_neox", {**BASE, **GPT_NEOX})
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(["--model", str(checkpoint), "--out", str(artifact)]) == 0
    return Program(checkpoint, artifact, said.getvalue())


@pytest.fixture(scope="session")
def bloom(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """Made by the function the program calls."""
    root = tmp_path_factory.mktemp("bloom")
    checkpoint, artifact, stages = root / "tiny-bloom", root / "artifact", list[str]()
    save_checkpoint(checkpoint, "bloom", {**BASE, **BLOOM})
    artifact.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        # Has optimum put weights beside the graph, as it does from two gigabytes on.
        patch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")
        compiled = export_with_optimum(checkpoint, artifact, stages.append)
    _complete(artifact, checkpoint, compiled)
    return Traced(checkpoint, artifact, compiled, stages)


def _complete(artifact: Path, checkpoint: Path, compiled: Compiled) -> None:
    """Add tokenizer and manifest to what was compiled."""
    content = (checkpoint / "tokenizer.json").read_bytes()
    (artifact / "tokenizer.json").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    tokenizer = FileEntry(role="tokenizer", path="tokenizer.json", size=len(content), sha256=digest)
    manifest = Manifest(
        exporter="test",
        source=Source(format="safetensors", name=checkpoint.name, sha256="0" * 64),
        model_ref=f"file:{checkpoint.name}",
        family=compiled.family,
        shapes=compiled.shapes,
        precision="fp32",
        dialect="optimum",
        cache=compiled.cache,
        files=(*compiled.files, tokenizer),
        bos_token_id=1,
        eos_token_ids=(2, 0),
        chat_template=CHAT_TEMPLATE,
    )
    (artifact / MANIFEST_NAME).write_text(manifest.model_dump_json())


def prompts(*lengths: int) -> Iterator[list[int]]:
    draw = np.random.default_rng(11)
    for length in lengths:
        yield draw.integers(3, 384, length).tolist()


@pytest.mark.parametrize("name", ["neox", "bloom"])
def test_greedy_tokens_and_logits_equal_transformers(
    name: str, request: pytest.FixtureRequest
) -> None:
    made: Made = request.getfixturevalue(name)
    model, backend = load_reference(made.checkpoint), open_cpu(made.artifact, slots=2)
    for slot, prompt in enumerate(prompts(9, 300)):  # the second one in two chunks
        completion = list(itertools.islice(greedy(backend, prompt, slot=slot), 40))
        theirs = reference_logits(model, prompt + completion)[len(prompt) - 1 :]
        assert completion == theirs[:-1].argmax(-1).tolist()
        last = backend.run(Step.of(slot, len(prompt) + 39, completion[-1:]))
        np.testing.assert_allclose(last[0], theirs[-1], atol=1e-4)
        np.testing.assert_allclose(prefill(backend, prompt, slot=slot), theirs[0], atol=1e-4)


def test_the_whole_context_can_be_used(neox: Made) -> None:
    backend = open_cpu(neox.artifact)
    assert backend.capacity == 512
    (prompt,) = prompts(511)
    prefill(backend, prompt)
    theirs = reference_logits(load_reference(neox.checkpoint), [*prompt, 5])
    np.testing.assert_allclose(backend.run(Step.of(0, 511, [5]))[0], theirs[-1], atol=1e-4)


@pytest.mark.parametrize("name", ["neox", "bloom"])
def test_the_engine_serves_it(name: str, request: pytest.FixtureRequest) -> None:
    made: Made = request.getfixturevalue(name)
    (prompt,) = prompts(30)
    expected = list(itertools.islice(greedy(open_cpu(made.artifact), prompt), 24))
    with Engine.load(made.artifact, slots=2) as engine:
        collected = [
            submit(engine, Request(name, prompt, 24, GREEDY)) for name in ("one", "two", "three")
        ]
        for collector in collected:
            text, end = collector.finished()
            assert text == engine.tokenizer.decode(expected)
            assert end.completion_tokens == 24
        cache = engine.manifest.cache
        assert engine.memory().cache_reserved == 3 * engine.context_length * cache.bytes_per_token


def test_the_program_turns_to_optimum_by_itself_and_says_so(neox: Program) -> None:
    # On a machine that is slow, lines between them say how far it is.
    trying, *_, done = neox.said.splitlines()
    assert "gpt_neox" in trying
    assert trying.endswith("; trying optimum")
    assert done.startswith(f"{neox.artifact}  optimum, ")
    manifest = Artifact.open(neox.artifact).manifest
    assert (manifest.dialect, manifest.precision, manifest.family) == (
        "optimum",
        "fp32",
        "gpt_neox",
    )
    assert manifest.shapes.model_dump() == {
        "layers": 2,
        "hidden": 64,
        "intermediate": 128,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 16,
        "vocab": 384,
        "context_length": 512,
    }
    assert manifest.cache.bytes_per_token == 2 * 2 * 64 * 4
    assert sorted(path.name for path in neox.artifact.iterdir()) == [
        MANIFEST_NAME,
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
    ]


def test_what_was_compiled_is_told(bloom: Traced) -> None:
    assert bloom.compiled.family == "bloom"
    assert 0 < bloom.compiled.error < 1e-4
    assert bloom.compiled.notes == ("the configuration gives no context length: 2048 is assumed",)
    assert bloom.stages == [
        "starting optimum",
        "loading",
        "running the original",
        "tracing",
        "writing",
        "checking",
    ]


def test_a_graph_that_computes_something_else_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint, staging = tmp_path / "falcon", tmp_path / "staging"
    save_checkpoint(checkpoint, "falcon", {**BASE, **ALIBI_IN_BFLOAT16})
    staging.mkdir()
    capfd.readouterr()
    # Its ALiBi is computed in bfloat16, which optimum's trace leaves out: positions above 256 are
    # rounded in the one and not in the other.
    with pytest.raises(UnsupportedModel, match=r"computes something else .* off by .*it cannot"):
        export_with_optimum(checkpoint, staging)
    assert capfd.readouterr() == ("", "")


@dataclass(frozen=True, slots=True)
class Bad:
    damage: Callable[[Path], None]
    error: type[ExportError]
    message: str


def _configure(**changed: Any) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        file = checkpoint / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))

    return damage


def _rename_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")


def _drop_tensor(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["gpt_neox.layers.1.mlp.dense_h_to_4h.bias"]
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})


def _cut_weights(checkpoint: Path) -> None:
    os.truncate(checkpoint / "model.safetensors", 5000)


BAD: Mapping[str, Bad] = {
    "pickle": Bad(_rename_weights, CheckpointError, "pytorch_model.bin', a pickle, .* never"),
    "no weights": Bad(
        lambda path: (path / "model.safetensors").unlink(),
        CheckpointError,
        r"no \*\.safetensors file in the directory$",
    ),
    "cut": Bad(_cut_weights, CheckpointError, "not a whole safetensors file"),
    "no config": Bad(
        lambda path: (path / "config.json").unlink(), CheckpointError, "config.json: missing"
    ),
    "not json": Bad(
        lambda path: (path / "config.json").write_text("{"), CheckpointError, "cannot be read"
    ),
    "nameless": Bad(_configure(model_type=None), CheckpointError, "names no model_type$"),
    # From here on, transformers is asked.
    "own code": Bad(
        _configure(model_type="own", auto_map={"AutoConfig": "own.Config"}),
        UnsupportedModel,
        "'own' is unknown .* code that comes with a checkpoint is never run$",
    ),
    "no tensor": Bad(
        _drop_tensor, CheckpointError, r"layers\.1\.mlp\.dense_h_to_4h\.bias: missing, going by"
    ),
    "layers without end": Bad(
        _configure(num_hidden_layers=10**9), CheckpointError, "claims 1000000000 layers"
    ),
}


@dataclass(frozen=True, slots=True)
class Tried:
    checkpoint: Path
    staging: Path
    outcome: Future[Compiled]


@pytest.fixture(scope="module")
def tried(neox: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Tried]]:
    """By name, what becomes of bad checkpoints: two at a time, each may start a process."""
    with ThreadPoolExecutor(2) as pool:
        started = {}
        for name, bad in BAD.items():
            root = tmp_path_factory.mktemp("bad")
            checkpoint, staging = copy_of(neox.checkpoint, root), root / "staging"
            staging.mkdir()
            bad.damage(checkpoint)
            outcome = pool.submit(export_with_optimum, checkpoint, staging)
            started[name] = Tried(checkpoint, staging, outcome)
        yield started


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoints(name: str, tried: Mapping[str, Tried]) -> None:
    bad, one = BAD[name], tried[name]
    with pytest.raises(bad.error, match=bad.message) as error:
        one.outcome.result()
    assert str(one.checkpoint) in str(error.value)
    assert "\n" not in str(error.value)
    assert not any(one.staging.iterdir())


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ExportError, match=r"model\.gguf: optimum exports directories .* not GGUF"):
        export_with_optimum(file, tmp_path)


def test_without_optimum_the_message_names_the_extra(
    neox: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = neox.checkpoint
    monkeypatch.setitem(sys.modules, "optimum", None)
    with pytest.raises(
        ExportError, match=r"needs optimum, .*: pip install 'onnx-worker-rbee\[export-all\]'$"
    ):
        export_with_optimum(checkpoint, tmp_path)


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("kill -9 $$", "it was killed, most likely for lack of memory$"),
        ("echo one >&2; echo two >&2; exit 1", "failed: two$"),
        ("exit 7", "exit code 7$"),
    ],
)
def test_a_process_that_dies_is_reported(
    script: str,
    cause: str,
    neox: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint, python = neox.checkpoint, tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    staging = tmp_path / "staging"
    staging.mkdir()
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ExportError, match=cause):
        export_with_optimum(checkpoint, staging)
    assert not any(staging.iterdir())


def test_a_long_rope_ends_the_context_where_it_changes() -> None:
    config = SimpleNamespace(
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        rope_scaling={"type": "longrope"},
        sliding_window=262144,
    )
    context = Context.of(config)
    assert (context.length, context.tried) == (4096, 320)
    (note,) = context.notes
    assert note.startswith("the context is limited to 4096: ")


@pytest.mark.parametrize(
    ("window", "length", "tried"),
    [(128, 32768, 320), (300, 32768, 332), (4096, 32768, 4128), (8192, 8192, 320)],
)
def test_a_window_is_tried_or_ends_the_context(window: int, length: int, tried: int) -> None:
    context = Context.of(SimpleNamespace(max_position_embeddings=32768, sliding_window=window))
    assert (context.length, context.tried) == (length, tried)
    assert len(context.notes) == (length < 32768)


def test_no_more_positions_are_tried_than_there_are() -> None:
    assert Context.of(SimpleNamespace(max_position_embeddings=40)) == Context(40, 40, ())


@given(positions=st.integers(1, 4352))
def test_steps_cover_the_text_and_end_with_single_tokens(positions: int) -> None:
    schedule = Schedule.over(positions)
    assert sum(schedule.steps) == positions
    assert min(schedule.steps) >= 1
    assert max(schedule.steps) <= PREFILL_CHUNK
    assert schedule.compared_positions[-1] == positions - 1
    assert len(schedule.compared_positions) == schedule.compared
    if positions >= 32:
        assert schedule.steps[-8:] == (1,) * 8
        assert schedule.steps[-9] > 1, "several tokens after a past"


TOKENS = {"input_ids": ("INT64", ["b", "n"]), "attention_mask": ("INT64", ["b", "t"])}
KEY, VALUE = "past_key_values.0.key", "past_key_values.0.value"


def graph_with(**more: tuple[str, list[int | str]]) -> ir.Model:
    """Make a graph with these inputs, and an output for each cache among them."""
    inputs = [
        ir.Value(name=name, type=ir.TensorType(ir.DataType[dtype]), shape=ir.Shape(dims))
        for name, (dtype, dims) in {**TOKENS, **more}.items()
    ]
    logits = ir.Value(
        name="logits", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["b", "n", 384])
    )
    presents = [
        ir.Value(name=name.replace("past_key_values", "present"))
        for name in more
        if name in (KEY, VALUE)
    ]
    graph = ir.Graph(inputs, [logits, *presents], nodes=[], opset_imports={"": 18})
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "has no cache of keys and values$"),
        ({"cache_position": ("INT64", ["n"])}, r"wants an input 'cache_position' \(INT64\)"),
        ({"position_ids": ("FLOAT", ["b", "n"])}, r"wants an input 'position_ids' \(FLOAT\)"),
        (
            {KEY: ("FLOAT", ["bh", 16, "p"])},
            r"cache past_key_values\.0\.key is FLOAT of \[bh,16,p\]",
        ),
        ({KEY: ("FLOAT16", ["b", 4, "p", 16])}, "is FLOAT16 of"),
        ({KEY: ("FLOAT", ["b", "p", 4, 16])}, r"is FLOAT of \[b,p,4,16\]"),
    ],
)
def test_graphs_the_runtime_cannot_serve_are_refused(
    inputs: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModel, match=f"^model: .*{message}"):
        Interface.of(graph_with(**inputs), Path("model"))


def test_the_geometry_of_uneven_caches_takes_no_less_than_they_do() -> None:
    cache = {KEY: ("FLOAT", ["b", 4, "p", 24]), VALUE: ("FLOAT", ["b", 4, "p", 17])}
    interface = Interface.of(graph_with(**cache), Path("model"))
    assert interface.vocab == 384
    assert interface.geometry.bytes_per_token >= 4 * (24 + 17) * 4
    assert interface.geometry.model_dump() == {
        "layers": 1,
        "kv_heads": 4,
        "head_dim": 21,
        "dtype": "float32",
        "window": None,
        "windowed_layers": (),
    }
