"""Is this tree slower than another revision of it? Both are run by turns, each from its files."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Literal

from rbee_bench.bystanders import Bystanders
from rbee_bench.interleave import interleave
from rbee_bench.peers import PeerProcess, Spec
from rbee_bench.random_checkpoint import ModelShape, write_checkpoint
from rbee_bench.start import start_once
from rbee_bench.stats import median_interval
from rbee_bench.subject import Progress

LEAST, MOST = 8, 24
"""Rounds before the first verdict, and after which there will be none."""

_MORE = 4
_PRECISION = "int4"
_QUICK = ModelShape(vocab=8192, hidden=512, intermediate=2048, heads=8, kv_heads=2, layers=2)

Unit = Literal["seconds a token", "seconds", "bytes"]

_LIMITS: Mapping[str, tuple[Unit, float]] = {
    "decode": ("seconds a token", 0.05),
    "prefill": ("seconds a token", 0.05),
    "start": ("seconds", 0.10),
    "memory": ("bytes", 0.10),
}
_Round = tuple[Mapping[str, float], Mapping[str, float]]
"""What each figure cost the base and this tree."""


class GateFault(Exception):
    """The two trees cannot be compared; one line says why."""


class Verdict(Enum):
    """What the rounds so far say."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Figure:
    """A cost, of which less is better, in both trees.

    Attributes:
        name: What it is.
        unit: Its unit.
        limit: How much more this tree may need, as a part of the base's.
        base: The base's, one a round.
        this: This tree's, in the same rounds.
    """

    name: str
    unit: Unit
    limit: float
    base: tuple[float, ...]
    this: tuple[float, ...]

    @property
    def changes(self) -> list[float]:
        """By how much this tree needs more, round by round: 0.1 is a tenth more."""
        return [this / base - 1 for this, base in zip(self.this, self.base, strict=True)]

    @property
    def change(self) -> float:
        """The middle one of the changes."""
        return statistics.median(self.changes)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the change is with 99 % confidence; see ``median_interval``."""
        return median_interval(self.changes)

    @property
    def bounded(self) -> bool:
        """Whether there were rounds enough for an interval."""
        return self.interval[1] < float("inf")

    @property
    def verdict(self) -> Verdict:
        """Passed or failed once the whole interval is on one side of the limit."""
        low, high = self.interval
        if low > self.limit:
            return Verdict.FAILED
        return Verdict.PASSED if high <= self.limit else Verdict.UNDECIDED


@dataclass(frozen=True, slots=True)
class Gate:
    """This tree beside its base.

    Attributes:
        base: The revision as it was asked for.
        commit: The commit that names.
        figures: What was compared.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    base: str
    commit: str
    figures: tuple[Figure, ...]
    bystanders: float

    @property
    def rounds(self) -> int:
        """Rounds that were needed."""
        return len(self.figures[0].base)

    @property
    def verdict(self) -> Verdict:
        """Failed if any figure did; passed if every one did."""
        verdicts = [figure.verdict for figure in self.figures]
        for verdict in (Verdict.FAILED, Verdict.UNDECIDED):
            if verdict in verdicts:
                return verdict
        return Verdict.PASSED


@dataclass(frozen=True, slots=True)
class _Turn:
    """How long the parts of a round are: of a model of random weights, and of a real one."""

    prompt: int
    tokens: int
    repeats: int


def measure_gate(
    base: str,
    model: Path | None,
    threads: int,
    progress: Progress,
    slowdown: float = 0.0,
    *,
    least: int = LEAST,
    most: int = MOST,
) -> Gate:
    """Compare this tree with a revision, in rounds, until they agree or there are too many.

    A round opens both trees anew, for where a process's memory lands decides some per cent of its
    speed; within it they take turns, and the best turn of each counts, for disturbances only slow.
    The base is exported and run by its own packages; only this package, which measures, is this
    tree's for both.

    Args:
        base: A git revision.
        model: A checkpoint; ``None`` for a small one of random weights and short turns.
        threads: Threads the peers are told to compute with.
        progress: Called as it goes on.
        slowdown: A part of their time that is added to this tree's, to try the gate.
        least: Rounds before the first verdict.
        most: Rounds at most.

    Raises:
        GateFault: This is no git checkout, it has no such revision, or one of the two cannot be
            exported.
        PeerFault: One of the two cannot run it.
        StartFault: One of the two does not start a worker on it.
    """
    root = Path(__file__).resolve().parents[2]
    commit = _git(root, "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}").decode().strip()
    turn = _Turn(384, 96, 12) if model is None else _Turn(192, 48, 6)
    with tempfile.TemporaryDirectory(prefix="rbee-gate-") as place:
        progress(f"unpacking {base}", 0, 0)
        other = Path(place) / "tree"
        _unpack(root, commit, other)
        if model is None:
            model = Path(place) / "checkpoint"
            model.mkdir()
            write_checkpoint(_QUICK, model)
        trees = []
        for name, tree in (("base", other), ("this", root)):
            progress(f"exporting with {name}", 0, 0)
            path = _search_path(tree, root)
            artifact = Path(place) / name
            _export(path, model, artifact)
            spec = Spec("compiled", name, artifact, turn.prompt + turn.tokens, threads, other)
            trees.append(_Tree(spec, path))
        bystanders = Bystanders()
        rounds: list[_Round] = []
        while True:
            wanted = least if not rounds else min(most, len(rounds) + _MORE)
            while len(rounds) < wanted:
                progress("rounds" if len(rounds) < least else "noisy, more", len(rounds), wanted)
                rounds.append(_round(trees, turn))
            figures = _figures(rounds, slowdown)
            gate = Gate(base, commit, figures, bystanders.share())
            if gate.verdict is not Verdict.UNDECIDED or len(rounds) >= most:
                return gate


@dataclass(frozen=True, slots=True)
class _Tree:
    spec: Spec
    search_path: str


def _round(trees: Sequence[_Tree], turn: _Turn) -> _Round:
    prompt = [1 + 31 * place % 199 for place in range(turn.prompt)]
    base, this = trees
    with (
        PeerProcess(base.spec, base.search_path) as one,
        PeerProcess(this.spec, this.search_path) as other,
    ):
        peers = {"base": one, "this": other}
        decodes = interleave(
            {name: partial(peer.decode, prompt, turn.tokens) for name, peer in peers.items()},
            turn.repeats,
            lambda _: None,
        )
        prefills = interleave(
            {name: partial(peer.prefill, prompt) for name, peer in peers.items()},
            turn.repeats,
            lambda _: None,
        )
    starts = {tree.spec.label: start_once(tree.spec.model, tree.search_path) for tree in trees}

    def costs(name: str) -> dict[str, float]:
        return {
            "decode": 1 / max(timing.rate for timing in decodes[name]),
            "prefill": 1 / max(timing.rate for timing in prefills[name]),
            "start": starts[name].seconds,
            "memory": starts[name].generated,
        }

    return costs("base"), costs("this")


def _figures(rounds: Sequence[_Round], slowdown: float) -> tuple[Figure, ...]:
    figures = []
    for name, (unit, limit) in _LIMITS.items():
        slower = 1 + slowdown if unit != "bytes" else 1
        base = tuple(one[name] for one, _ in rounds)
        this = tuple(other[name] * slower for _, other in rounds)
        figures.append(Figure(name, unit, limit, base, this))
    return tuple(figures)


def _search_path(tree: Path, measuring: Path) -> str:
    own = [tree / "export", tree / "runtime", tree / "service", measuring / "bench"]
    return os.pathsep.join(map(str, own))


def _unpack(root: Path, commit: str, directory: Path) -> None:
    """Write a commit's files, as ``git worktree`` would, but leave no mark in the repository."""
    packed = _git(root, "archive", "--format=tar", commit)
    directory.mkdir()
    subprocess.run(["tar", "-x", "-C", str(directory)], input=packed, check=True)


def _git(root: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=False
        )
    except FileNotFoundError:
        raise GateFault("git is not installed") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else "no such revision"
        raise GateFault(f"git {' '.join(arguments)}: {why}")
    return done.stdout


def _export(search_path: str, model: Path, target: Path) -> None:
    command = [sys.executable, "-m", "rbee_export", "--model", str(model), "--out", str(target)]
    done = subprocess.run(
        [*command, "--precision", _PRECISION, "--no-verify"],
        env={**os.environ, "PYTHONPATH": search_path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["(silent)"]
        raise GateFault(f"its export ended with code {done.returncode}: {lines[-1]}")
