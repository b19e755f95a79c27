"""The engine over a real artifact, as a caller sees it."""

from __future__ import annotations

import gc
import itertools
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.collecting import submit
from support.running import greedy, open_cpu

from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import host_cache
from rbee_runtime.engine import Engine
from rbee_runtime.errors import (
    ArtifactError,
    ContextOverflow,
    DeviceError,
    InvalidRequest,
    InvalidSetting,
)
from rbee_runtime.events import Event, Finished, Started, StopReason
from rbee_runtime.request import GREEDY, Request, SamplingParams
from rbee_runtime.status import LoadProgress
from rbee_runtime.step import PREFILL_CHUNK

PROMPT = "Once upon a time"
WARM = SamplingParams(temperature=1.0, seed=7)


@pytest.fixture(scope="module")
def engine(tiny_artifact: Path) -> Iterator[Engine]:
    with Engine.load(tiny_artifact, backend="cpu", slots=2) as engine:
        yield engine


@pytest.fixture(scope="module")
def long_prompt() -> list[int]:
    return np.random.default_rng(1).integers(3, 384, 2 * PREFILL_CHUNK + 18).tolist()


def test_it_says_what_the_model_does(
    engine: Engine, tiny_artifact: Path, long_prompt: list[int]
) -> None:
    backend = open_cpu(tiny_artifact)
    for number, prompt in enumerate((engine.tokenizer.encode(PROMPT), long_prompt)):
        expected = list(itertools.islice(greedy(backend, prompt), 40))
        text, end = submit(engine, Request(f"same-{number}", prompt, 40, GREEDY)).finished()
        assert text == engine.tokenizer.decode(expected)
        assert end.reason is StopReason.MAX_TOKENS
        assert (end.prompt_tokens, end.completion_tokens) == (len(prompt), 40)
        assert end.prefill_seconds > 0
        assert end.decode_seconds > 0
        assert end.tokens_per_second == 39 / end.decode_seconds


def test_generate_yields_the_same_in_pieces(engine: Engine) -> None:
    pieces = list(engine.generate(PROMPT, max_tokens=20, sampling=GREEDY))
    text, _ = submit(engine, Request("a", PROMPT, 20, GREEDY)).finished()
    assert "".join(pieces) == text
    assert len(pieces) > 1


def test_generate_stops_at_a_string(engine: Engine) -> None:
    text = "".join(engine.generate(PROMPT, max_tokens=30, sampling=GREEDY))
    stop = text[10:13]
    stopped = "".join(engine.generate(PROMPT, max_tokens=30, sampling=GREEDY, stop=(stop,)))
    assert stopped == text[: text.index(stop)]


def test_a_seed_repeats_a_completion_and_is_reported_when_drawn(engine: Engine) -> None:
    def run(sampling: SamplingParams) -> tuple[int, str]:
        collector = submit(engine, Request("seeded", PROMPT, 24, sampling))
        started = collector.next()
        assert isinstance(started, Started)
        text = ""
        while not isinstance(event := collector.next(), Finished):
            text += getattr(event, "text", "")
        return started.seed, text

    assert run(WARM) == run(WARM)
    assert run(WARM)[0] == 7
    drawn, text = run(SamplingParams())
    assert run(SamplingParams(seed=drawn)) == (drawn, text)
    texts = {run(SamplingParams(temperature=2.0, seed=seed))[1] for seed in range(4)}
    assert len(texts) == 4


def test_company_does_not_change_a_completion(engine: Engine, long_prompt: list[int]) -> None:
    requests = [
        Request("one", PROMPT, 30, WARM),
        Request("two", long_prompt, 30, SamplingParams(seed=9, top_p=0.9)),
        Request("three", "def step(rows):", 30, GREEDY),
    ]
    alone = [submit(engine, request).finished()[0] for request in requests]
    together = [submit(engine, request) for request in requests]
    assert [collector.finished()[0] for collector in together] == alone


@pytest.mark.parametrize("whole", [True, False])
def test_a_request_may_fill_the_context_and_not_more(engine: Engine, whole: bool) -> None:
    prompt = [5] * (engine.context_length - 2)
    if whole:
        _, end = submit(engine, Request("full", prompt, 2, GREEDY)).finished()
        assert end.completion_tokens == 2
        return
    with pytest.raises(ContextOverflow, match=r"1022 tokens.*max_tokens \(3\).*length of 1024"):
        submit(engine, Request("full", prompt, 3, GREEDY))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([5, 384], r"outside 0\.\.383"),
        ([-1], r"outside 0\.\.383"),
        ("a\udc80", "unpaired surrogate"),
    ],
)
def test_prompts_that_are_not_of_this_model(
    prompt: str | list[int], message: str, engine: Engine
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        submit(engine, Request("bad", prompt, 3))
    assert caught.value.field == "prompt"
    assert engine.status().slots_available == 2


def test_an_unknown_id_cannot_be_cancelled(engine: Engine) -> None:
    assert not engine.cancel("nobody")


def test_it_knows_itself(engine: Engine, tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    assert engine.backend_name == "cpu"
    assert engine.manifest == artifact.manifest
    assert engine.context_length == 1024
    status = engine.status()
    assert (status.slots_total, status.slots_available, status.queued) == (2, 2, 0)
    assert status.queue_total == 64
    assert (status.healthy, status.fault) == (True, None)
    memory = engine.memory()
    assert memory.weights == artifact.weight_bytes
    slots, kept = 2 * 1024, 4 * 1024
    assert memory.cache_reserved == (slots + kept) * host_cache(artifact).bytes_per_token
    assert memory.cache <= memory.cache_reserved
    assert memory.total == memory.weights + memory.cache + memory.workspace


def test_loading_reports_its_progress(tiny_artifact: Path) -> None:
    seen: list[LoadProgress] = []
    with Engine.load(tiny_artifact, progress=seen.append):
        *loading, ready = seen
    assert {progress.stage for progress in loading} == {"loading_to_vram"}
    assert ready.stage == "ready"
    assert ready.layers_loaded == 2
    layers = [progress.layers_loaded for progress in seen]
    assert layers == sorted(layers)
    assert all(progress.layers_total == 2 for progress in seen)
    counted = [progress.bytes_loaded for progress in loading]
    assert counted == sorted(counted)
    assert counted[-1] == Artifact.open(tiny_artifact).weight_bytes


def test_what_cannot_be_loaded(tiny_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such artifact directory"):
        Engine.load(str(tmp_path / "gone"))
    with pytest.raises(InvalidSetting, match="'abacus' is not known; use cpu, cuda or tensorrt"):
        Engine.load(tiny_artifact, backend="abacus")
    with pytest.raises(DeviceError, match="device 99"):
        Engine.load(tiny_artifact, backend="cpu", device=99)


def test_leaving_the_block_ends_what_is_live(tiny_artifact: Path) -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    with Engine.load(tiny_artifact) as engine:
        engine.submit(Request("long", PROMPT, 900, GREEDY), events.put)
        assert isinstance(events.get(timeout=30), Started)
    event = events.get(timeout=30)
    while not isinstance(event, Finished):
        event = events.get(timeout=30)
    assert event.reason in (StopReason.CANCELLED, StopReason.MAX_TOKENS)


def test_an_engine_that_nobody_has_any_more_ends(tiny_artifact: Path) -> None:
    before = set(threading.enumerate())
    engine = Engine.load(tiny_artifact, backend="cpu", slots=1)
    threads = set(threading.enumerate()) - before
    assert "rbee-engine" in {thread.name for thread in threads}
    del engine
    gc.collect()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_a_forked_process_is_told_that_it_has_no_engine(tiny_artifact: Path) -> None:
    """It has no threads: who asked waited without end."""
    script = (
        "import os, sys\n"
        "from rbee_runtime import Engine, RuntimeFault\n"
        "engine = Engine.load(sys.argv[1], backend='cpu', slots=1)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        list(engine.generate('Hi'))\n"
        "    except RuntimeFault as fault:\n"
        "        print(fault, flush=True)\n"
        "    engine.close()\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(len(''.join(engine.generate('Hi', max_tokens=5))) > 0)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(tiny_artifact)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    refused, served = told.stdout.splitlines()
    assert refused == "the engine is of the process that this one was forked from: load it here"
    assert served == "True"
