"""Engines at their turns: the halves of a contest, and engines that cannot take part."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rbee_bench.contest import hold_contest
from rbee_bench.peers import PeerProcess, Spec, Timing

IDS = list(range(5, 120))


def test_every_engine_is_opened_anew_for_the_second_half(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    ours = Spec("compiled", "ours", tiny_artifact, 0, 1, tmp_path)
    again = dataclasses.replace(ours, label="again")
    missing = dataclasses.replace(ours, label="missing", model=tmp_path / "nothing")
    opened: list[tuple[str, int]] = []
    measured: list[tuple[str, int]] = []
    said: list[tuple[str, int, int]] = []

    def attempt(peer: PeerProcess) -> None:
        opened.append((peer.spec.label, peer.process_id))

    def prefill(peer: PeerProcess) -> Timing:
        measured.append((peer.spec.label, peer.process_id))
        return peer.prefill(IDS[:8])

    contest = hold_contest(
        [ours, missing, again],
        {"prefill": prefill},
        attempt,
        IDS,
        rounds=3,
        threads=1,
        progress=lambda *step: said.append(step),
    )
    assert list(contest.engines) == ["ours", "again"]
    assert all(engine.ours and engine.reads is not None for engine in contest.engines.values())
    assert contest.skipped.keys() == {"missing"}
    assert "no such artifact directory" in contest.skipped["missing"]
    assert [label for label, _ in opened] == ["ours", "again"] * 2
    assert len({process for _, process in opened}) == 4
    # Two rounds of the first half and one of the second, and before each one that is dropped.
    assert {one: measured.count(one) for one in opened} == dict(
        zip(opened, (3, 3, 2, 2), strict=True)
    )
    assert {label: len(taken) for label, taken in contest.timings["prefill"].items()} == {
        "ours": 3,
        "again": 3,
    }
    assert len(contest.roofs["prefill"]) == 3
    assert contest.agreement.shares == {"ours": 1.0, "again": 1.0}
    assert [total for _, done, total in said if done == 1] == [9, 6]
    # What could not be opened is not tried again.
    assert [label for label, *_ in said].count("opening missing") == 1
