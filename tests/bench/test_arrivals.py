"""Loads over HTTP, against servers without a model, each a process."""

from __future__ import annotations

import io
import sys
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from rich.console import Console, RenderableType
from support import openai_stand_in

from rbee_bench.arrivals import Arrivals, measure_arrivals, schedule
from rbee_bench.chats import measure_chats
from rbee_bench.percentiles import Percentiles
from rbee_bench.report_served import arrivals_report, chats_report
from rbee_bench.servers import ServerFault, ServerProcess, ServerSpec

_TEXT = "".join(f"{number} is a number. " for number in range(1000))


def _server(manner: str, *, ours: bool = False) -> ServerSpec:
    return ServerSpec(
        manner, ours, (sys.executable, str(openai_stand_in.__file__), "{port}", manner)
    )


def _measured(*manners: str, rates: tuple[float | None, ...] = (None,)) -> Arrivals:
    return measure_arrivals(
        [_server(manner) for manner in manners],
        _TEXT,
        rates=rates,
        requests=3,
        rounds=2,
        barred=(0,),
        progress=lambda *_: None,
    )


def _shown(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_same_seed_sends_the_same_requests() -> None:
    first, again, other = (schedule(_TEXT, 20, 2.0, seed, ()) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first[0].at == 0.0
    assert all(a.at < b.at for a, b in pairwise(first))
    prompts = [arrival.question.prompt for arrival in first]
    assert len({str(prompt)[:6] for prompt in prompts}) == len(prompts)


def test_gaps_are_those_of_a_poisson_process() -> None:
    times = [arrival.at for arrival in schedule(_TEXT, 4000, 5.0, 1, ())]
    gaps = [b - a for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 5.0, rel=0.05)
    # Exponential gaps spread as wide as they are long, and 1 in e is above the mean.
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(
        mean, rel=0.1
    )
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.03)
    assert {arrival.at for arrival in schedule(_TEXT, 5, None, 1, ())} == {0.0}


def test_percentiles_of_few_lie_between_the_longest() -> None:
    assert Percentiles.of([1.0, 2.0, 3.0]) == Percentiles(2.0, 2.9, 2.98)
    assert Percentiles.of([]).p50 != Percentiles.of([]).p50  # not a number


def test_servers_are_compared_on_the_same_requests() -> None:
    result = _measured("right", "babbling", "short", rates=(50.0, None))
    assert [(row.label, row.rate) for row in result.rows] == [
        *(("right", 50.0), ("babbling", 50.0), ("short", 50.0)),
        *(("right", None), ("babbling", None), ("short", None)),
    ]
    right, babbling, short = result.rows[:3]
    assert result.reference == "right"
    assert result.requests == 6
    assert 0.0 < right.first.p50 <= right.whole.p50 <= right.whole.p99
    assert right.faults == babbling.faults == short.faults == {}
    assert (right.alike, babbling.alike, right.early, short.early) == (1.0, 0.0, 0, 6)
    text = _shown(arrivals_report(result))
    assert "6 requests, 50 a second at random" in text
    assert "6 requests, all at once" in text
    assert "babbling, all at once: wrong, if fast: 0% of its answers begin as those" in text
    assert "short, 50 a second: 6 answers ended early" in text


@pytest.mark.parametrize(
    ("manner", "fault"),
    [("failing", "503: "), ("broken", "the model is gone")],
)
def test_a_server_that_fails_is_counted_not_timed(manner: str, fault: str) -> None:
    result = _measured("right", manner)
    row = result.rows[1]
    ((said, count),) = row.faults.items()
    assert fault in said
    assert count == 6
    assert row.first.p50 != row.first.p50
    assert f"{manner}, all at once: 6 failed: " in _shown(arrivals_report(result))


def test_a_server_that_does_not_run_is_skipped_with_a_word(tmp_path: Path) -> None:
    absent = ServerSpec("absent", False, (str(tmp_path / "nothing"), "{port}"))
    module = ServerSpec("module", False, (sys.executable, "-m", "no_such_module"))
    silent = ServerSpec("silent", False, (sys.executable, "-c", "raise SystemExit('bad luck')"))
    result = measure_arrivals(
        [absent, module, silent, _server("right")],
        _TEXT,
        rates=[None],
        requests=1,
        rounds=1,
        barred=(),
        progress=lambda *_: None,
    )
    assert [row.label for row in result.rows] == ["right"]
    assert result.skipped["absent"].startswith("not installed: ")
    assert result.skipped["module"].startswith("not installed: ")
    assert result.skipped["silent"] == "its process ended with code 1: bad luck"
    with pytest.raises(ServerFault, match="absent: not installed"):
        measure_chats([absent], _TEXT, chats=1, rounds=1, barred=(), progress=lambda *_: None)


def test_its_process_ends_with_the_block() -> None:
    with ServerProcess(_server("right")) as server:
        process = psutil.Process(server.process_id)
        assert server.model == "stand-in"
        assert server.seconds > 0.0
    assert not process.is_running()


def test_chats_are_told_apart_by_what_is_known_of_them() -> None:
    result = measure_chats(
        [_server("right"), _server("failing")],
        _TEXT,
        chats=3,
        rounds=2,
        barred=(),
        progress=lambda *_: None,
    )
    right, failing = result.rows
    assert len(right.seconds) == 2
    assert (right.faults, failing.faults) == (0, 2 * 3 * 3)
    text = _shown(chats_report(result))
    assert "3 chats of 3 turns" in text
    assert "failing: 18 requests failed" in text
