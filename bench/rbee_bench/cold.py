"""From nothing to a first token, and the memory that takes: every engine, and every server."""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psutil

from rbee_bench.bystanders import Bystanders
from rbee_bench.peers import OTHERS, Kind, PeerFault, PeerProcess, Spec
from rbee_bench.servers import Question, ServerFault, ServerProcess, ServerSpec, ask
from rbee_bench.stats import spread
from rbee_bench.subject import Progress, Subject
from rbee_bench.taking_turns import Turns
from rbee_runtime.artifact import Precision

_TOKENS = 64
_CAPACITY = 512
_PRECISIONS: tuple[Precision, ...] = ("gguf", "int4")
_SLOW: tuple[Kind, ...] = ("vllm",)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process held, and those that it had started.

    Attributes:
        peak: Most resident bytes since its start, shared pages included; of several processes the
            sum, though each may have had its most at another time.
        serving: Proportional bytes after a completion of 64 tokens: a page that ``n`` processes
            share counts for an ``n``-th.
    """

    peak: int
    serving: int

    @classmethod
    def of(cls, process: int) -> Memory:
        """Return that of a process that lives."""
        first = psutil.Process(process)
        peak = serving = 0
        for one in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, FileNotFoundError):  # it has just ended
                serving += int(one.memory_full_info().pss)
                peak += _peak_bytes(one.pid)
        return cls(peak, serving)


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One engine's or server's starts.

    Attributes:
        label: What was started.
        ours: Whether it is the compiled runtime or worker.
        conversion: Seconds to make what it opens from the GGUF file; ``None`` where it opens that.
        seconds: From the start of its process to its first token, one a round.
        peak_bytes: See :class:`Memory`; the largest of the rounds.
        serving_bytes: See :class:`Memory`; the largest of the rounds.
    """

    label: str
    ours: bool
    conversion: float | None
    seconds: tuple[float, ...]
    peak_bytes: int
    serving_bytes: int

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """See :func:`~rbee_bench.stats.spread`."""
        return spread(self.seconds)


@dataclass(frozen=True, slots=True)
class Cold:
    """Everything's starts, by turns.

    Attributes:
        rows: What started.
        skipped: By label, why something did not.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    rows: tuple[ColdStart, ...]
    skipped: dict[str, str]
    bystanders: float


def _peak_bytes(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    return sum(int(line.split()[1]) << 10 for line in lines.splitlines() if "VmHWM:" in line)


@dataclass(frozen=True, slots=True)
class _Start:
    seconds: float
    memory: Memory


@dataclass(frozen=True, slots=True)
class _Subject:
    """Something to start; ``fresh`` makes what it opens, too."""

    label: str
    ours: bool
    start: Callable[[], _Start]
    convert: Callable[[float], float | None]


def measure_cold(
    subject: Subject,
    servers: Sequence[ServerSpec],
    ids: Sequence[int],
    rounds: int,
    progress: Progress,
    *,
    convert: bool,
    slow: bool = True,
) -> Cold:
    """Start everything once to warm the page cache, then ``rounds`` times by turns.

    Args:
        subject: The model.
        servers: Servers to start besides the engines.
        ids: Tokens, the first of which are the prompt.
        rounds: Starts that count.
        progress: Called as it goes on.
        convert: Also time how long each takes to make what it opens, which can be minutes.
        slow: Also start engines that take a quarter of a minute.
    """
    kinds = [kind for kind in OTHERS if slow or kind not in _SLOW]
    subjects = [*_ours(subject, ids, progress), *_served(servers), *_peers(subject, kinds, ids)]
    turn = Turns(progress, len(subjects) * (rounds + 1 + convert))
    bystanders = Bystanders()
    taken: dict[str, list[_Start]] = {one.label: [] for one in subjects}
    skipped: dict[str, str] = {}
    for _ in range(rounds + 1):
        for one in subjects:
            if one.label not in skipped:
                try:
                    taken[one.label].append(one.start())
                except (PeerFault, ServerFault) as fault:
                    skipped[one.label] = str(fault)
            turn(one.label)
    others = bystanders.share()
    rows = []
    for one in subjects:
        if one.label in skipped:
            continue
        starts = taken[one.label]
        seconds = tuple(start.seconds for start in starts[1:])
        rows.append(
            ColdStart(
                label=one.label,
                ours=one.ours,
                conversion=one.convert(statistics.median(seconds)) if convert else None,
                seconds=seconds,
                peak_bytes=max(start.memory.peak for start in starts),
                serving_bytes=max(start.memory.serving for start in starts),
            )
        )
        if convert:
            turn(f"conversion for {one.label}")
    return Cold(tuple(rows), skipped, others)


def _ours(subject: Subject, ids: Sequence[int], progress: Progress) -> list[_Subject]:
    rows = []
    for precision in _PRECISIONS:
        spec = subject.compiled(precision, progress, capacity=_CAPACITY)

        def convert(_: float, precision: str = precision) -> float:
            return _export_seconds(subject.gguf, precision)

        rows.append(
            _Subject(f"{precision}, in process", True, partial(_start_peer, spec, ids), convert)
        )
    return rows


def _served(servers: Sequence[ServerSpec]) -> list[_Subject]:
    return [
        _Subject(
            f"{spec.label}, worker" if spec.ours else spec.label,
            spec.ours,
            partial(_start_server, spec),
            lambda _: None,
        )
        for spec in servers
    ]


def _peers(subject: Subject, kinds: Sequence[Kind], ids: Sequence[int]) -> list[_Subject]:
    rows = []
    for kind in kinds:
        spec = subject.peer(kind, _CAPACITY)

        def convert(again: float, spec: Spec = spec) -> float | None:
            with tempfile.TemporaryDirectory(prefix="rbee-bench-") as place:
                workspace = Path(place) / "converted"
                once = _start_peer(dataclasses.replace(spec, workspace=workspace), ids)
                return max(0.0, once.seconds - again) if workspace.exists() else None

        rows.append(_Subject(spec.label, False, partial(_start_peer, spec, ids), convert))
    return rows


def _start_peer(spec: Spec, ids: Sequence[int]) -> _Start:
    began = time.perf_counter()
    with PeerProcess(spec) as peer:
        peer.decode(ids[:4], 2)
        seconds = time.perf_counter() - began
        peer.decode(ids[:4], _TOKENS)
        return _Start(seconds, Memory.of(peer.process_id))


def _start_server(spec: ServerSpec) -> _Start:
    async def complete(server: ServerProcess) -> str:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            return (await ask(client, server.model, Question("Once upon a time", _TOKENS))).fault

    with ServerProcess(spec) as server:
        fault = asyncio.run(complete(server))
        if fault:
            raise ServerFault(fault)
        return _Start(server.seconds, Memory.of(server.process_id))


def _export_seconds(gguf: Path, precision: str) -> float:
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as place:
        command = [sys.executable, "-m", "rbee_export", "--model", str(gguf), "--no-verify"]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, "--out", f"{place}/artifact", "--precision", precision],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise PeerFault(f"its export ended with code {done.returncode}")
        return time.perf_counter() - began
