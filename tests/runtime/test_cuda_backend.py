"""The CUDA path over a runtime library that works on the host: what is copied, where and when."""

from __future__ import annotations

import json
import logging
import re
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.collecting import submit
from support.cuda_on_host import open_on_fake
from support.fake_cuda_library import ILLEGAL_ADDRESS, FakeCuda
from support.makers import MakeFamily
from support.running import open_cpu, prefill

from rbee_export import Options, digest, export, open_checkpoint
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import Backend, onnx
from rbee_runtime.backend.session import GRAPH_OFF, Binding, open_session
from rbee_runtime.constraint import JsonSchema, Regex
from rbee_runtime.engine import Engine
from rbee_runtime.errors import (
    DeviceLost,
    EngineClosed,
    InferenceFailed,
    OutOfMemory,
    RuntimeFault,
)
from rbee_runtime.request import GREEDY, Request, SamplingParams
from rbee_runtime.sampling import RowSampler
from rbee_runtime.step import Row, Step
from rbee_runtime.tokenizer import Tokenizer
from rbee_runtime.transfer import BLOCK, Load, Move, Store, Swap

FAMILIES = ("llama", "gemma3", "phi3-longrope", "qwen3")
IDS = np.random.default_rng(3).integers(3, 384, 300).tolist()
WARM = SamplingParams(temperature=0.9, top_k=50, top_p=0.9, seed=5)
PENALISED = SamplingParams(
    temperature=0.7,
    repetition_penalty=1.3,
    frequency_penalty=0.4,
    presence_penalty=0.2,
    logit_bias={17: 3.0},
    seed=8,
)


@pytest.fixture(scope="module")
def artifacts(make_family: MakeFamily, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts for CUDA, in a precision each."""
    root, made = tmp_path_factory.mktemp("cuda"), {}
    for family in FAMILIES:
        checkpoint = open_checkpoint(make_family(family))
        options = Options("fp16" if family != "qwen3" else "int8", target="cuda")
        export(checkpoint, root / family, options, digest(checkpoint.files))
        made[family] = root / family
    return made


def continued(
    backend: Backend, params: Sequence[SamplingParams], prompts: Sequence[list[int]], count: int
) -> list[list[int]]:
    """Complete prompts together, the slots in order, as the engine does."""
    samplers = [RowSampler(p, prompt) for p, prompt in zip(params, prompts, strict=True)]
    tokens: list[list[int]] = []
    for slot, (prompt, sampler) in enumerate(zip(prompts, samplers, strict=True)):
        backend.advance(Step.of(slot, 0, prompt[:-1], 320), None)
        (first,) = backend.advance(Step.of(slot, len(prompt) - 1, prompt[-1:], 320), [sampler])
        assert first is not None
        tokens.append([first])
    for past in range(count - 1):
        rows = [
            Row(len(prompt) + past, own[-1:], 320)
            for prompt, own in zip(prompts, tokens, strict=True)
        ]
        for own, token in zip(tokens, backend.advance(Step(0, rows), samplers), strict=True):
            assert token is not None
            own.append(token)
    return tokens


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("graphs", [True, False])
def test_it_draws_what_the_cpu_draws(family: str, graphs: bool, artifacts: dict[str, Path]) -> None:
    params = [GREEDY, WARM, PENALISED]  # three rows run as four
    prompts = [IDS[:40], IDS[50:57], IDS[100:260]]
    cpu = open_cpu(artifacts[family], slots=4)
    gpu = open_on_fake(artifacts[family], FakeCuda(), graphs=graphs)
    gpu.warm_up()
    assert continued(gpu, params, prompts, 24) == continued(cpu, params, prompts, 24)
    assert continued(gpu, [GREEDY] * 3, prompts, 6) == continued(cpu, [GREEDY] * 3, prompts, 6)


def test_log_probabilities_are_of_the_logits_it_leaves(artifacts: dict[str, Path]) -> None:
    """Of prompts and of captured steps, though what it draws is of other ones."""
    fake = open_on_fake(artifacts["llama"], FakeCuda())
    fake.warm_up()
    params = [replace(one, logprobs=2) for one in (GREEDY, WARM, PENALISED)]
    samplers = [RowSampler(one, IDS[:20]) for one in params]
    cpu = open_cpu(artifacts["llama"], slots=4)
    steps = [Step.of(slot, 0, IDS[:20], 320) for slot in range(3)]
    steps.append(Step(0, [Row(20, (token,), 320) for token in IDS[20:23]]))
    for step in steps:
        own = samplers if len(step.rows) > 1 else samplers[step.slot : step.slot + 1]
        drawn = fake.advance(step, own)
        for logits, sampler, token in zip(cpu.run(step), own, drawn, strict=True):
            exact = logits - np.log(np.exp(logits.astype(np.float64)).sum())
            known = sampler.logprobs
            assert known is not None
            assert known.token == token
            assert abs(known.logprob - exact[token]) < 1e-4
            likeliest = np.sort(exact)[:-3:-1]
            np.testing.assert_allclose([one.logprob for one in known.top], likeliest, atol=1e-4)


@pytest.fixture
def no_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that captures no graph."""
    make, run = Binding.__init__, Binding.run

    def note(self: Any, session: Any, device: Any, graph: int = GRAPH_OFF) -> None:
        make(self, session, device, graph)
        self.graph = graph

    def refuse(self: Any, tokens: int) -> None:
        if self.graph != GRAPH_OFF:
            raise InferenceFailed("operation not permitted when stream is capturing")
        run(self, tokens)

    monkeypatch.setattr(Binding, "__init__", note)
    monkeypatch.setattr(Binding, "run", refuse)


@pytest.mark.usefixtures("no_captures")
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_without_captures_it_draws_the_same(
    family: str, artifacts: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    prompts = [IDS[:40], IDS[50:57], IDS[100:260]]
    gpu = open_on_fake(artifacts[family], FakeCuda())
    with caplog.at_level(logging.INFO, "rbee.backend"):
        gpu.warm_up()
    (said,) = caplog.messages
    assert said.startswith("Running without captured graphs")
    assert "stream is capturing" in said
    params, cpu = [GREEDY, WARM, PENALISED], open_cpu(artifacts[family], slots=4)
    assert continued(gpu, params, prompts, 12) == continued(cpu, params, prompts, 12)


@pytest.mark.usefixtures("no_captures")
def test_a_lost_gpu_is_not_taken_for_a_failed_capture(artifacts: dict[str, Path]) -> None:
    fake = FakeCuda()
    gpu = open_on_fake(artifacts["llama"], fake)
    fake.broken = ILLEGAL_ADDRESS
    with pytest.raises(DeviceLost):
        gpu.warm_up()
    fake.broken = 0


@pytest.mark.parametrize(
    ("params", "uploads"), [([GREEDY] * 2, 1), ([WARM] * 2, 2), ([PENALISED, GREEDY], 2)]
)
def test_a_step_brings_scalars_there_and_tokens_back(
    params: list[SamplingParams], uploads: int, artifacts: dict[str, Path]
) -> None:
    fake = FakeCuda()
    backend = open_on_fake(artifacts["llama"], fake)
    samplers = [RowSampler(one, IDS[:5]) for one in params]
    backend.advance(Step.of(0, 0, IDS[:5]), None)
    backend.advance(Step.of(1, 0, IDS[:5]), None)
    for past in range(5, 9):
        fake.calls.clear()
        allocated = fake.used
        backend.advance(Step(0, [Row(past, [7]), Row(past, [9])]), samplers)
        if past > 5:  # the first step of a request brings its penalties and bias
            assert fake.kinds() == ["to device"] * uploads + ["to host", "wait"]
            assert sum(size for kind, size in fake.calls if kind == "to host") == 2 * 8
            assert sum(size for kind, size in fake.calls) < 8192
            assert fake.used == allocated


def test_a_prompt_stays_there(artifacts: dict[str, Path]) -> None:
    fake = FakeCuda()
    backend = open_on_fake(artifacts["llama"], fake)
    fake.calls.clear()
    backend.advance(Step.of(2, 0, IDS[:200]), None)
    assert fake.kinds() == ["to device", "wait"]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_copies_within_the_cache(family: str, artifacts: dict[str, Path]) -> None:
    fake = FakeCuda()
    backend, cpu = open_on_fake(artifacts[family], fake), open_cpu(artifacts[family], slots=4)
    assert isinstance(cpu, type(backend))
    fake.calls.clear()
    for either in (backend, cpu):
        prefill(either, IDS[:100], slot=0)
        prefill(either, IDS[100:180], slot=3)
        assert either.blocks >= 2
        for transfer in (
            Store(0, 0, 1),
            Store(0, BLOCK, 0),
            Swap(0, 3, 100),
            Move(3, 1, 100),
            Load(1, 2, 0),
            Load(0, 2, BLOCK),
        ):
            either.transfer(transfer)
    assert "to host" not in [kind for kind, size in fake.calls if size > 384 * 4]
    for slot, past in ((0, 80), (1, 100), (2, 64)):
        step = Step.of(slot, past, [11])
        np.testing.assert_array_equal(backend.run(step), cpu.run(step))


def test_who_decodes_disturbs_no_prompt(artifacts: dict[str, Path]) -> None:
    """Steps of three rows run a fourth one, in a slot whose prompt is not done yet."""
    backend, alone = (open_on_fake(artifacts["gemma3"], FakeCuda()) for _ in range(2))
    for slot in range(3):
        prefill(backend, IDS[slot : slot + 9], slot=slot)
    for start in range(0, 300, 60):
        backend.advance(Step.of(3, start, IDS[start : start + 60]), None)
        rows = [Row(9 + start // 60, [5])] * 3
        backend.advance(Step(0, rows), [RowSampler(GREEDY, ()) for _ in range(3)])
    for start in range(0, 300, 60):
        alone.advance(Step.of(3, start, IDS[start : start + 60]), None)
    step = Step.of(3, 300, [8])
    np.testing.assert_array_equal(backend.run(step), alone.run(step))


def test_a_slot_forgets_the_request_before(artifacts: dict[str, Path]) -> None:
    backend, cpu = open_on_fake(artifacts["llama"], FakeCuda()), open_cpu(artifacts["llama"])
    for params in (PENALISED, WARM, PENALISED, GREEDY):
        mine = continued(backend, [params], [IDS[:12]], 12)
        assert mine == continued(cpu, [params], [IDS[:12]], 12)


def test_a_mask_may_change_between_two_tokens(artifacts: dict[str, Path]) -> None:
    backend = open_on_fake(artifacts["llama"], FakeCuda())
    sampler = RowSampler(GREEDY, ())
    backend.advance(Step.of(0, 0, IDS[:5]), None)
    for past, only in ((5, 40), (6, 41), (7, 300)):
        sampler.allowed = np.arange(384) == only
        assert backend.advance(Step.of(0, past, [7]), [sampler]) == [only]
    sampler.allowed = None
    (free,) = backend.advance(Step.of(0, 8, [7]), [sampler])
    logits = backend.run(Step.of(0, 8, [7]))[0]
    assert free == int(logits.argmax())


@pytest.mark.parametrize("params", [GREEDY, WARM, PENALISED])
def test_what_is_held_to_a_schema_is_what_the_cpu_says(
    params: SamplingParams, artifacts: dict[str, Path]
) -> None:
    """Several at once, each held to something else, in slots that change hands."""
    path = artifacts["llama"]
    artifact = Artifact.open(path)
    tokenizer = Tokenizer.open(artifact.file("tokenizer"), None, None, None)
    constraints = [
        JsonSchema({"type": "array", "items": {"enum": [1, "bee"]}, "minItems": 9, "maxItems": 9}),
        Regex("[a-f]{2}-(x|yz){20}"),
        None,
        Regex("0{5}|1{40}"),
    ]

    def answers(backend: Backend) -> list[str]:
        with Engine(artifact, tokenizer, backend) as engine:
            collected = [
                submit(engine, Request(f"{n}", IDS[:20], 120, params, constraint=constraint))
                for n, constraint in enumerate(constraints * 2)
            ]
            return [one.finished()[0] for one in collected]

    mine = answers(open_on_fake(path, FakeCuda()))
    assert mine == answers(open_cpu(path, slots=3))
    assert len(json.loads(mine[0])) == 9
    assert re.fullmatch("[a-f]{2}-(x|yz){20}", mine[1])
    assert re.fullmatch("0{5}|1{40}", mine[3])


@pytest.mark.parametrize("fault", [InferenceFailed, OutOfMemory])
def test_weights_in_blocks_are_unpacked_first_where_fused_products_fail(
    fault: type[RuntimeFault], artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is opened again, once the first session is gone; not for want of memory."""
    backend = open_on_fake(artifacts["qwen3"], FakeCuda())
    first = weakref.ref(backend._session)
    told: list[bool] = []
    run = Binding.run

    def run_or_fail(self: Binding, tokens: int) -> None:
        if tokens >= 16 and self._session is first():
            raise fault("no kernel for so many")
        run(self, tokens)

    def reopen(graph: Path, device: Any, *, fused: bool = True) -> Any:
        assert first() is None
        told.append(fused)
        return open_session(graph, device, fused=fused)

    monkeypatch.setattr(Binding, "run", run_or_fail)
    monkeypatch.setattr(onnx, "open_session", reopen)
    backend.warm_up()
    assert told == ([False] if fault is InferenceFailed else [])
    if told:
        cpu = open_cpu(artifacts["qwen3"])
        assert continued(backend, [WARM], [IDS[:60]], 9) == continued(cpu, [WARM], [IDS[:60]], 9)


def test_memory_comes_back(artifacts: dict[str, Path]) -> None:
    fake = FakeCuda()
    backend = open_on_fake(artifacts["llama"], fake)
    assert backend.held() == fake.used > backend.cache_bytes == backend.cache_used > 0
    del backend
    assert fake.used == 0


def test_a_cache_that_the_gpu_has_no_room_for(artifacts: dict[str, Path]) -> None:
    fake = FakeCuda(size=1 << 16)
    with pytest.raises(
        OutOfMemory, match=r"no room for the KV cache: the GPU has no [\d.]+ [kMG]B of"
    ):
        open_on_fake(artifacts["llama"], fake)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_gpu_that_fails_ends_the_engine(artifacts: dict[str, Path]) -> None:
    fake = FakeCuda()
    artifact = Artifact.open(artifacts["llama"])
    tokenizer = Tokenizer.open(artifact.file("tokenizer"), None, None, 1)
    with Engine(artifact, tokenizer, open_on_fake(artifacts["llama"], fake)) as engine:
        assert submit(engine, Request("good", IDS[:9], 4, GREEDY)).finished()
        fake.broken = ILLEGAL_ADDRESS
        failed = submit(engine, Request("bad", IDS[:9], 90, GREEDY)).failed()
        assert isinstance(failed.error, DeviceLost)
        assert "illegal memory access" in (engine.status().fault or "")
        assert not engine.status().healthy
        with pytest.raises(EngineClosed, match="illegal memory access"):
            submit(engine, Request("late", IDS[:9], 4, GREEDY))
    fake.broken = 0
