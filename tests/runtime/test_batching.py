"""Many requests at once over real graphs: each gets what it would get alone."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.collecting import submit
from support.makers import MakeArtifact, MakeFamily
from support.running import greedy, open_cpu

from rbee_runtime.artifact import Artifact
from rbee_runtime.engine import Engine
from rbee_runtime.errors import ContextOverflow, InvalidRequest, InvalidSetting
from rbee_runtime.events import Finished, Piece, StopReason
from rbee_runtime.request import GREEDY, Request, SamplingParams
from rbee_runtime.status import LoadProgress
from rbee_runtime.step import PREFILL_CHUNK
from rbee_runtime.transfer import BLOCK

RANDOM = np.random.default_rng(5)
SHARED = RANDOM.integers(3, 384, 3 * BLOCK + 7).tolist()


def some_ids(count: int) -> list[int]:
    ids: list[int] = RANDOM.integers(3, 384, count).tolist()
    return ids


REQUESTS = [
    Request("greedy", some_ids(5), 40, GREEDY),
    Request("long", some_ids(300), 30, GREEDY),
    Request("warm", some_ids(40), 35, SamplingParams(seed=1)),
    Request("nucleus", SHARED + some_ids(9), 50, SamplingParams(seed=2, top_p=0.8)),
    Request("same-nucleus", SHARED + some_ids(30), 20, SamplingParams(seed=3, top_p=0.8)),
    Request("top", some_ids(70), 30, SamplingParams(seed=4, top_k=7, temperature=1.5)),
    Request("shared-greedy", SHARED + some_ids(1), 45, GREEDY),
    Request(
        "penalised",
        some_ids(20),
        40,
        SamplingParams(
            seed=6,
            repetition_penalty=1.3,
            frequency_penalty=0.5,
            presence_penalty=0.3,
            logit_bias={17: 2.0},
        ),
    ),
    Request("one", some_ids(2), 1, GREEDY),
    Request("brief", some_ids(33), 2, SamplingParams(seed=9)),
]


@contextmanager
def engine_of(artifact: Path, **options: Any) -> Iterator[Engine]:
    with Engine.load(artifact, backend="cpu", **options) as engine:
        yield engine


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "mistral",
        "gemma2",
        "gemma3",
        "phi3-longrope",
        "qwen3",
        "phi",
        "qwen2-moe",
        "qwen3-next",
    ],
)
def test_company_changes_nothing(
    family: str, make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    artifact = make_artifact(make_family(family), "fp32")
    # Without room for blocks, nothing is reused: every prompt is computed whole, alone.
    room = Artifact.open(artifact).manifest.cache.slot_bytes(400, PREFILL_CHUNK)
    with engine_of(artifact, slots=1, context_length=400, memory_budget=room) as engine:
        alone = {one.request_id: submit(engine, one).finished() for one in REQUESTS}
    with engine_of(artifact, slots=4, max_prefill_chunk=16) as engine:
        for _ in range(2):
            together = {one.request_id: submit(engine, one) for one in REQUESTS}
            for name, collector in together.items():
                text, end = collector.finished()
                assert text == alone[name][0], name
                assert end.completion_tokens == alone[name][1].completion_tokens
        assert engine.status().slots_available == 4


def test_what_begins_alike_is_computed_once(
    make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    artifact = make_artifact(make_family("llama"), "fp32")
    turn = some_ids(64)
    answer = list(itertools.islice(greedy(open_cpu(artifact), turn), 40))
    with engine_of(artifact, slots=2) as engine:

        def reused(prompt: list[int], tokens: int) -> int:
            end = submit(engine, Request("a", prompt, tokens, GREEDY)).finished()[1]
            assert end.completion_tokens == tokens
            return end.reused_tokens

        assert reused([*SHARED, 5, 6], 3) == 0
        assert reused([*SHARED, 9, 9], 3) == 3 * BLOCK
        assert reused(some_ids(50), 3) == 0
        # A chat goes on from its answer, as far as that has been run.
        assert reused(turn, 40) == 0
        assert reused([*turn, *answer, 8, 8], 3) == 96


def test_requests_come_and_go_while_others_run(
    tiny_llama: Path, make_artifact: MakeArtifact
) -> None:
    """Threads that submit, read some and cancel, or read all; everyone gets their own.

    At fp32, as how a prompt is cut into chunks depends on the company.
    """
    artifact = make_artifact(tiny_llama, "fp32")
    requests = [Request(f"{n}", some_ids(1 + 13 * n % 90), 25, GREEDY) for n in range(12)]
    with engine_of(artifact, slots=3, max_queue=64, max_prefill_chunk=8) as engine:
        expected = [submit(engine, one).finished()[0] for one in requests]
        faults: list[str] = []

        def call(worker: int) -> None:
            for turn in range(6):
                number = (worker * 5 + turn) % 12
                one = requests[number]
                mine = Request(f"{worker}-{turn}", one.prompt, 25, GREEDY)
                text = ""
                stream = engine.stream(mine)
                for event in stream:
                    if isinstance(event, Piece):
                        text += event.text
                        if (worker + turn) % 3 == 0 and event.tokens > 5:
                            stream.close()
                            break
                    if isinstance(event, Finished) and text != expected[number]:
                        faults.append(f"{mine.request_id}: {text!r}")
                if not expected[number].startswith(text):
                    faults.append(f"{mine.request_id} began {text!r}")

        workers = [threading.Thread(target=call, args=(n,)) for n in range(5)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert faults == []
        submit(engine, Request("last", [5], 1, GREEDY)).finished()
        status = engine.status()
        assert (status.slots_available, status.queued, status.healthy) == (3, 0, True)


def test_complete_answers_in_order(tiny_artifact: Path) -> None:
    prompts = [f"Number {n} says" for n in range(9)]
    with engine_of(tiny_artifact, slots=2, max_queue=1) as engine:
        single = ["".join(engine.generate(prompt, max_tokens=12)) for prompt in prompts]
        several = engine.complete(prompts, max_tokens=12)
        assert [completion.text for completion in several] == single
        assert {completion.stop_reason for completion in several} <= {
            StopReason.MAX_TOKENS,
            StopReason.EOS,
        }
        with pytest.raises(ContextOverflow):
            engine.complete(["fine", "too long " * 1000], max_tokens=12)
        with pytest.raises(InvalidRequest, match="must be a list of texts"):
            engine.complete("fine")
        assert engine.complete([]) == []
        # What was cancelled just before may have its slot for another step, no longer.
        for name in ("next", "last"):
            submit(engine, Request(name, [5], 1, GREEDY)).finished()
        assert engine.status().slots_available == 2


def test_complete_shows_a_bar(tiny_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with engine_of(tiny_artifact) as engine:
        engine.complete(["a", "b"], max_tokens=2, progress=True)
    captured = capsys.readouterr()
    assert "completing" in captured.err
    assert captured.out == ""


async def test_the_async_twin_says_the_same(tiny_artifact: Path) -> None:
    with engine_of(tiny_artifact, slots=2) as engine:
        expected = ["".join(engine.generate(p, max_tokens=20)) for p in ("One", "Two", "Three")]

        async def text(prompt: str) -> str:
            return "".join([piece async for piece in engine.agenerate(prompt, max_tokens=20)])

        assert await asyncio.gather(*map(text, ("One", "Two", "Three"))) == expected
        with pytest.raises(InvalidRequest):
            await text("a\udc80")
        pieces = engine.agenerate("One", max_tokens=900)
        assert await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
        task = asyncio.create_task(text("Another one"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await text("One") == expected[0]
        submit(engine, Request("last", [5], 1, GREEDY)).finished()
        assert engine.status().slots_available == 2


def test_an_event_loop_that_was_closed_has_nobody_who_waits(
    tiny_artifact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with engine_of(tiny_artifact, slots=1) as engine:
        loop = asyncio.new_event_loop()
        pieces = aiter(engine.agenerate("One", max_tokens=900))
        assert loop.run_until_complete(anext(pieces))
        loop.close()
        submit(engine, Request("next", [5], 1, GREEDY)).finished()
    assert caplog.text == ""


def test_as_many_tokens_as_the_context_holds(tiny_artifact: Path) -> None:
    never = SamplingParams(temperature=0.0, logit_bias={0: -100.0, 1: -100.0, 2: -100.0})
    with engine_of(tiny_artifact, slots=1, context_length=64) as engine:
        _, end = submit(engine, Request("all", some_ids(20), None, never)).finished()
        assert (end.reason, end.completion_tokens) == (StopReason.MAX_TOKENS, 44)
        with pytest.raises(ContextOverflow, match="64"):
            submit(engine, Request("none left", some_ids(64), None, never))


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 0},
        {"slots": -1},
        {"context_length": 0},
        {"context_length": 5000},
        {"memory_budget": 0.0},
        {"memory_budget": 1.5},
        {"max_queue": -1},
        {"max_prefill_chunk": 0},
        {"device": -1},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused_before_anything_is_loaded(
    options: dict[str, Any], tiny_artifact: Path
) -> None:
    told: list[LoadProgress] = []
    with pytest.raises(InvalidSetting, match="must be"):
        Engine.load(tiny_artifact, progress=told.append, **options)
    assert told == []
