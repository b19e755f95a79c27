"""A short form of ``rbee-bench hostile`` and of ``rbee-bench load``, on a small model."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import httpx
from rich.console import Console, RenderableType

from rbee_bench.attack_bodies import GOOD, MODEL
from rbee_bench.hostile import ATTACKS, measure_hostile
from rbee_bench.load import measure_load
from rbee_bench.report_service import hostile_report, load_report
from rbee_bench.worker_process import started_worker
from rbee_runtime import Artifact


def shown(layout: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(layout)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_bodies_are_good_before_they_are_spoilt(tiny_artifact: Path) -> None:
    with started_worker("--model", str(tiny_artifact), "--model-ref", MODEL) as worker:
        worker.until_ready()
        for route, bodies in GOOD.items():
            for body in bodies:
                answer = httpx.post(f"http://127.0.0.1:{worker.port}{route}", json=body)
                assert answer.status_code == 200, (route, body, answer.text)


def test_hostile_requests(tiny_artifact: Path) -> None:
    found = measure_hostile(Artifact.open(tiny_artifact), 600, lambda *_: None)
    assert found.requests >= 600 >= len(ATTACKS)
    assert found.held, found
    assert found.good >= 2
    assert found.statuses[400] > 100
    assert "hostile requests" in shown(hostile_report(found))
    assert json.loads(json.dumps(asdict(found)))["good"] == found.good


def test_many_streams(tiny_artifact: Path) -> None:
    found = measure_load(Artifact.open(tiny_artifact), 40, 4, 2.0, lambda *_: None)
    assert found.lost == 0, found.faults
    assert found.ended >= 40
    assert found.tokens > 0
    assert found.health
    assert "40 streams on 4 slots" in shown(load_report(found))
