"""The TensorRT backend over an engine that is the graph, on a GPU that is the host."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.collecting import submit
from support.engines import require_engine_builder
from support.makers import MakeFamily
from support.queued_cuda import UNSUPPORTED
from support.running import prefill, relative_error
from support.tensorrt_on_host import install

from rbee_export import Options, digest, export, open_checkpoint
from rbee_export.export import TensorRtTarget
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import Backend, open_backend
from rbee_runtime.backend.device_sampler import DeviceSampler
from rbee_runtime.engine import Engine
from rbee_runtime.errors import DeviceLost, InferenceFailed, OutOfMemory
from rbee_runtime.request import GREEDY, Request, SamplingParams
from rbee_runtime.sampling import RowSampler
from rbee_runtime.step import Row, Step
from rbee_runtime.transfer import BLOCK, Load, Move, Store, Swap

FAMILIES = ("llama", "gemma3", "phi3-longrope")
QUANTISED = "qwen3"
ROWS, LENGTH = 4, 320
IDS = np.random.default_rng(3).integers(3, 384, 310).tolist()
WARM = SamplingParams(temperature=0.9, top_k=50, top_p=0.9, seed=5)
PENALISED = SamplingParams(
    temperature=0.7,
    repetition_penalty=1.3,
    frequency_penalty=0.4,
    presence_penalty=0.2,
    logit_bias={17: 3.0},
    seed=9,
)


@pytest.fixture(scope="module")
def artifacts(
    make_family: MakeFamily, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """Of each family the artifact with an engine, and the one for the CPU."""
    require_engine_builder()
    root, made = tmp_path_factory.mktemp("tensorrt"), {}
    for family in (*FAMILIES, QUANTISED):
        checkpoint = open_checkpoint(make_family(family))
        pair = root / family, root / f"{family}-cpu"
        target = TensorRtTarget(("SM89",), ROWS, LENGTH)
        content = digest(checkpoint.files)
        precision = "int8" if family == QUANTISED else "fp32"
        export(checkpoint, pair[0], Options(precision, target=target), content)
        export(checkpoint, pair[1], Options("fp32"), content)
        made[family] = pair
    return made


@pytest.fixture
def llama(artifacts: dict[str, tuple[Path, Path]]) -> Path:
    return artifacts["llama"][0]


def load(artifact: Path, backend: str, **options: Any) -> Engine:
    return Engine.load(artifact, backend=backend, slots=ROWS, context_length=LENGTH, **options)


def answers(engine: Engine, requests: Sequence[Request]) -> list[str]:
    waiting = [submit(engine, request) for request in requests]
    return [collector.finished()[0] for collector in waiting]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_what_the_cpu_says(
    family: str, artifacts: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six requests of all lengths, more than there are rows, and two that begin as others did."""
    params = [GREEDY, WARM, PENALISED]
    first = [
        Request(f"{n}", IDS[n : n + length], 20, params[n % 3])
        for n, length in enumerate((40, 7, 290, 1, 160, 96))
    ]
    again = [
        Request("again", IDS[2:280], 20, GREEDY),
        Request("as-far", [*IDS[5:85], 9, 8, 7], 20, WARM),
    ]
    engine_path, cpu_path = artifacts[family]
    said = []
    for path, backend in ((engine_path, "tensorrt"), (cpu_path, "cpu")):
        if backend == "tensorrt":
            install(monkeypatch, path)
        # Wider than the engine's profile: it is run in pieces.
        with load(path, backend, max_prefill_chunk=300) as engine:
            assert engine.backend_name == backend
            said.append([answers(engine, first), answers(engine, again)])
    assert said[0] == said[1]


def steps_of(backend: Backend, prompts: Sequence[list[int]]) -> None:
    for slot, prompt in enumerate(prompts):
        backend.advance(Step.of(slot, 0, prompt), None)


@pytest.mark.parametrize(("params", "uploads"), [([GREEDY] * 3, 1), ([WARM] * 3, 2)])
def test_a_step_is_one_launch(
    params: list[SamplingParams], uploads: int, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(monkeypatch, llama)
    backend = open_backend(Artifact.open(llama), "tensorrt")
    assert (backend.slots, backend.capacity) == (ROWS, LENGTH)
    backend.warm_up()
    samplers = [RowSampler(one, IDS[:5]) for one in params]
    steps_of(backend, [IDS[:5]] * 3)
    run, kinds = len(fake.steps), ["to device", "launch"] + ["to device"] * (uploads - 1)
    for past in range(5, 9):
        fake.cuda.calls.clear()
        used = fake.cuda.used
        backend.advance(Step(0, [Row(past, [7])] * 3), samplers)
        if past > 5:  # the first step of a request brings its penalties and bias
            assert fake.cuda.kinds() == [*kinds, "to host", "wait"]
            assert fake.cuda.used == used
    assert len(fake.steps) == run


def test_a_context_for_prompts_and_one_for_each_number_of_rows(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(monkeypatch, llama)
    backend = open_backend(Artifact.open(llama), "tensorrt", slots=3)
    assert [context.profile for context in fake.contexts] == [0, 1, 1, 1]
    when = fake.DynamicShapesKernelSpecializationStrategy
    specialised = [c.how.dynamic_shapes_kernel_specialization_strategy for c in fake.contexts]
    assert specialised == [when.LAZY, when.EAGER, when.EAGER, when.EAGER]
    backend.warm_up()
    # Each once as it comes, and once to be recorded.
    assert fake.steps == [(1, 2), *[(n, 1) for n in (1, 2, 3) for _ in range(2)]]


def test_one_profile_does_for_prompts_and_decoding(
    artifacts: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine of quantised weights has no more; it computes in float16."""
    path, cpu_path = artifacts[QUANTISED]
    fake = install(monkeypatch, path)
    (profile,) = fake.entry.profiles
    assert (profile.batch, profile.sequence) == ((1, ROWS), (1, 256))
    gpu = open_backend(Artifact.open(path), "tensorrt")
    gpu.warm_up()
    assert {context.profile for context in fake.contexts} == {0}
    cpu = open_backend(Artifact.open(cpu_path), "cpu", slots=ROWS, context=LENGTH)
    logits = []
    for backend in (gpu, cpu):
        steps_of(backend, [IDS[:250], IDS[5:9], IDS[7:60]])
        rows = [Row(250, [4]), Row(4, [5]), Row(53, [6])]
        logits.append(backend.run(Step(0, rows)))
    assert relative_error(*logits) < 0.05


@pytest.mark.parametrize("refusal", ["cuda", "tensorrt"])
def test_it_goes_on_without_recording(
    refusal: str,
    artifacts: dict[str, tuple[Path, Path]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, cpu_path = artifacts["llama"]
    fake = install(monkeypatch, path)
    if refusal == "cuda":
        fake.cuda.refuses = UNSUPPORTED
    else:
        fake.capturable = False
    requests = [Request(f"{n}", IDS[n : n + 30], 12, WARM) for n in range(3)]
    with caplog.at_level(logging.WARNING, "rbee.backend"), load(path, "tensorrt") as engine:
        said = answers(engine, requests)
    (record,) = caplog.records
    assert record.message.startswith("Decoding without captured graphs: ")
    assert not fake.cuda.graphs
    with load(cpu_path, "cpu") as engine:
        assert answers(engine, requests) == said


def test_it_goes_on_where_what_draws_tokens_cannot_be_captured(
    artifacts: dict[str, tuple[Path, Path]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, cpu_path = artifacts["llama"]
    fake = install(monkeypatch, path)
    warm_up, failed = DeviceSampler.warm_up, []

    def fails_once(sampler: DeviceSampler, rows: int) -> None:
        if not failed:
            failed.append(rows)
            raise InferenceFailed("the step failed in ONNX Runtime: capture")
        warm_up(sampler, rows)

    monkeypatch.setattr(DeviceSampler, "warm_up", fails_once)
    requests = [Request(f"{n}", IDS[n : n + 30], 12, WARM) for n in range(3)]
    with caplog.at_level(logging.WARNING, "rbee.backend"), load(path, "tensorrt") as engine:
        before = len(fake.cuda.graphs)
        said = answers(engine, requests)
    assert len(fake.cuda.graphs) == before
    (record,) = caplog.records
    assert record.message.startswith("Running without captured graphs, which is slower: ")
    with load(cpu_path, "cpu") as engine:
        assert answers(engine, requests) == said


@pytest.mark.parametrize(
    ("breaks", "told"),
    [("cuda", "(error 901) in cudaStreamEndCapture"), ("tensorrt", "in TensorRT: not like this")],
)
def test_a_recording_that_breaks_off_leaves_the_stream_as_it_was(
    breaks: str,
    told: str,
    llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """TensorRT allocates while it is recorded, which CUDA forbids, or fails by itself."""
    fake = install(monkeypatch, llama)
    backend = open_backend(Artifact.open(llama), "tensorrt", slots=1)
    context = fake.contexts[-1]
    run = context.execute_async_v3

    def break_off(stream: int) -> bool:
        if fake.cuda.records and breaks == "cuda":
            fake.cuda.cudaDeviceSynchronize()
        fake.fails = "not like this" if fake.cuda.records and breaks == "tensorrt" else None
        return run(stream)

    monkeypatch.setattr(context, "execute_async_v3", break_off)
    before = prefill(backend, IDS[:9])
    step = Step.of(0, 9, [5])
    logits = [backend.run(step) for _ in range(3)]
    np.testing.assert_array_equal(logits[0], logits[2])
    assert not np.array_equal(before, logits[0][0])
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert told in record.message


def test_copies_within_the_cache(
    artifacts: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cpu_path = artifacts["llama"]
    install(monkeypatch, path)
    gpu = open_backend(Artifact.open(path), "tensorrt")
    cpu = open_backend(Artifact.open(cpu_path), "cpu", slots=ROWS, context=LENGTH)
    for backend in (gpu, cpu):
        prefill(backend, IDS[:100], slot=0)
        prefill(backend, IDS[100:180], slot=3)
        assert backend.blocks >= 2
        for transfer in (
            Store(0, 0, 1),
            Store(0, BLOCK, 0),
            Swap(0, 3, 100),
            Move(3, 1, 100),
            Load(1, 2, 0),
            Load(0, 2, BLOCK),
        ):
            backend.transfer(transfer)
    for step in (
        Step.of(0, 80, [11]),
        Step.of(1, 100, [11, 12, 13]),
        Step.of(2, 64, [11]),
        Step(1, [Row(103, [3]), Row(65, [4])]),
        Step(0, [Row(81, [5]), Row(104, [6]), Row(66, [7])]),
    ):
        np.testing.assert_allclose(gpu.run(step), cpu.run(step), atol=1e-4)


def test_who_decodes_disturbs_no_prompt(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of three rows run a fourth one, in a slot whose prompt is not done yet."""
    install(monkeypatch, llama)
    together, alone = (open_backend(Artifact.open(llama), "tensorrt") for _ in range(2))
    together.warm_up()
    steps_of(together, [IDS[slot : slot + 9] for slot in range(3)])
    for start in range(0, 300, 60):
        together.advance(Step.of(3, start, IDS[start : start + 60]), None)
        rows = [Row(9 + start // 60, [5])] * 3
        together.advance(Step(0, rows), [RowSampler(GREEDY, ()) for _ in range(3)])
    for start in range(0, 300, 60):
        alone.advance(Step.of(3, start, IDS[start : start + 60]), None)
    step = Step.of(3, 300, [8])
    np.testing.assert_array_equal(together.run(step), alone.run(step))


@pytest.mark.parametrize("transfer", [Swap(2, 3, 100), Move(2, 3, 100)], ids=repr)
def test_idle_rows_follow_what_is_moved(
    transfer: Swap | Move, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, llama)
    backend = open_backend(Artifact.open(llama), "tensorrt")
    steps_of(backend, [IDS[:9], IDS[:9], IDS[:100], IDS[:20]])
    expected = backend.run(Step.of(2, 100, [8]))
    backend.advance(Step.of(2, 99, IDS[99:100]), None)
    backend.transfer(transfer)
    rows = [Row(9, [5]), Row(9, [5]), Row(20, [5])]
    backend.advance(Step(0, rows), [RowSampler(GREEDY, ()) for _ in rows])
    np.testing.assert_allclose(backend.run(Step.of(3, 100, [8])), expected, atol=1e-4)


def test_a_full_slot_beside_those_that_decode(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of three rows run a fourth one, in a slot that is full to its last position."""
    install(monkeypatch, llama)
    backend = open_backend(Artifact.open(llama), "tensorrt")
    steps_of(backend, [IDS[:9]] * 3 + [(IDS * 2)[: LENGTH - 1]])
    last = Step.of(3, LENGTH - 1, [5])
    expected = backend.run(last)
    backend.advance(Step(0, [Row(9, [5])] * 3), [RowSampler(GREEDY, ()) for _ in range(3)])
    np.testing.assert_array_equal(backend.run(last), expected)


def test_memory_is_accounted_for(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, llama)
    with load(llama, "tensorrt") as engine:
        memory = engine.memory()
        assert memory.weights == 5000
        assert memory.total == fake.cuda.used > memory.cache == memory.cache_reserved > 0
        assert memory.workspace >= 1400


def test_memory_comes_back(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, llama)
    backend = open_backend(Artifact.open(llama), "tensorrt")
    backend.warm_up()
    # There is one piece of memory for the activations of all contexts.
    assert len({context.memory for context in fake.contexts}) == 1
    fake.contexts.clear()
    del backend
    assert fake.cuda.used == 0
    assert not fake.cuda.graphs


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (1000, r"SM89.engine: loading the engine ran out of memory$"),
        (5300, r"the GPU has no 1\.4 kB of memory left"),
        (1 << 16, r"the KV cache needs [\d.]+ [kM]B for 1 x 320 tokens"),
    ],
)
def test_a_gpu_without_room(
    size: int, message: str, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(monkeypatch, llama, size=size)
    with pytest.raises(OutOfMemory, match=message):
        open_backend(Artifact.open(llama), "tensorrt")
    fake.contexts.clear()
    assert fake.cuda.used == 0


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        ("Error Code 2: OutOfMemory (Requested size 99)", OutOfMemory, "ran out of memory"),
        ("Error Code 1: Myelin ([fail.cpp]\n went wrong)", InferenceFailed, "Myelin .* went wrong"),
    ],
)
def test_a_step_that_fails_ends_its_request_alone(
    told: str,
    error: type[Exception],
    message: str,
    llama: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = install(monkeypatch, llama)
    with load(llama, "tensorrt") as engine:
        fake.fails = told
        failed = submit(engine, Request("bad", IDS[:9], 4, GREEDY)).failed()
        assert isinstance(failed.error, error)
        assert "\n" not in str(failed.error)
        assert failed.error.args[0].startswith("the step over 9 tokens ")
        with pytest.raises(error, match=message):
            raise failed.error
        fake.fails = None
        assert submit(engine, Request("good", IDS[:9], 4, GREEDY)).finished()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_gpu_that_fails_ends_the_engine(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, llama)
    with load(llama, "tensorrt") as engine:
        assert submit(engine, Request("good", IDS[:9], 4, GREEDY)).finished()
        fake.cuda.broken = 700
        failed = submit(engine, Request("bad", IDS[:9], 90, GREEDY)).failed()
        assert isinstance(failed.error, DeviceLost)
        assert not engine.status().healthy
    fake.cuda.broken = 0
