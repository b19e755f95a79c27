"""This tree and a revision of it, each with an artifact of its own, and rounds of both."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rbee_bench.interleave import interleave
from rbee_bench.peers import PeerProcess, Spec, alone
from rbee_bench.random_checkpoint import ModelShape, write_checkpoint
from rbee_bench.start import start_once
from rbee_bench.subject import Progress

_PRECISION = "int4"
_NATIVE = Path("runtime/native")
_KERNELS = Path("runtime/rbee_runtime/kernels/librbee_kernels.so")
Round = tuple[Mapping[str, float], Mapping[str, float]]
"""What each figure cost the base and this tree."""

_QUICK = ModelShape(vocab=8192, hidden=512, intermediate=2048, heads=8, kv_heads=2, layers=2)


class GateFault(Exception):
    """The two trees cannot be compared; one line says why."""


@dataclass(frozen=True, slots=True)
class Turn:
    """How long the parts of a round are: of a model of random weights, and of a real one.

    Attributes:
        prompt: Tokens of the prompt that both parts run.
        tokens: Tokens that a turn of decoding completes it with.
        decodes: Turns of each tree.
        prefills: As many of the prompt alone, which are shorter.
    """

    prompt: int
    tokens: int
    decodes: int
    prefills: int


_TURN, QUICK_TURN = Turn(192, 48, 10, 12), Turn(384, 96, 12, 40)
"""With a real model, and with a small one."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One of the two.

    Attributes:
        spec: Its artifact, on its runtime.
        search_path: Directories that its packages are imported from.
        effort: See :func:`~rbee_bench.effort.count_effort`.
    """

    spec: Spec
    search_path: str
    effort: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Trees:
    """Both, ready to run.

    Attributes:
        commit: What the base's name stands for.
        base: The revision.
        this: This tree.
        turn: How long the parts of a round are.
    """

    commit: str
    base: Tree
    this: Tree
    turn: Turn

    def round(self, number: int) -> Round:
        """Run both by turns, in processes of their own; who goes first alternates by round."""
        prompt = [1 + 31 * place % 199 for place in range(self.turn.prompt)]
        order = (self.base, self.this) if number % 2 == 0 else (self.this, self.base)
        with ExitStack() as stack:
            peers = {
                tree.spec.label: stack.enter_context(PeerProcess(tree.spec, tree.search_path))
                for tree in order
            }
            decodes = interleave(
                {
                    name: partial(alone, peer, partial(peer.decode, prompt, self.turn.tokens))
                    for name, peer in peers.items()
                },
                self.turn.decodes,
                lambda _: None,
            )
            prefills = interleave(
                {
                    name: partial(alone, peer, partial(peer.prefill, prompt))
                    for name, peer in peers.items()
                },
                self.turn.prefills,
                lambda _: None,
            )
        starts = {tree.spec.label: start_once(tree.spec.model, tree.search_path) for tree in order}

        def costs(name: str) -> dict[str, float]:
            return {
                "decode": 1 / statistics.median(timing.rate for timing in decodes[name]),
                "prefill": 1 / statistics.median(timing.rate for timing in prefills[name]),
                "start": starts[name].seconds,
                "memory": starts[name].generated,
            }

        return costs("base"), costs("this")


@contextmanager
def opened(base: str, model: Path | None, threads: int, progress: Progress) -> Iterator[Trees]:
    """Unpack the base, export with both trees, and count what their tokens cost.

    Args:
        base: A git revision.
        model: A checkpoint; ``None`` for a small one of random weights and short turns.
        threads: Threads the peers are told to compute with.
        progress: Called as it goes on.

    Raises:
        GateFault: This is no git checkout, it has no such revision, or one of the two cannot be
            exported or run.
    """
    root = Path(__file__).resolve().parents[2]
    commit = _git(root, "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}").decode().strip()
    turn = QUICK_TURN if model is None else _TURN
    with tempfile.TemporaryDirectory(prefix="rbee-gate-") as place:
        progress(f"unpacking {base}", 0, 0)
        other = Path(place) / "tree"
        _unpack(root, commit, other)
        progress(f"compiling the kernels of {base}", 0, 0)
        _give_kernels(root, other)
        if model is None:
            model = Path(place) / "checkpoint"
            model.mkdir()
            write_checkpoint(_QUICK, model)
        ready = {}
        for name, tree in (("base", other), ("this", root)):
            progress(f"exporting with {name}", 0, 0)
            path = _search_path(tree, root)
            artifact = Path(place) / name
            _export(path, model, artifact)
            spec = Spec("compiled", name, artifact, turn.prompt + turn.tokens, threads, other)
            progress(f"counting {name}", 0, 0)
            ready[name] = Tree(spec, path, _effort(path, artifact))
        yield Trees(commit, ready["base"], ready["this"], turn)


def _search_path(tree: Path, measuring: Path) -> str:
    own = [tree / "export", tree / "runtime", tree / "service", measuring / "bench"]
    return os.pathsep.join(map(str, own))


def _unpack(root: Path, commit: str, directory: Path) -> None:
    """Write a commit's files, as ``git worktree`` would, but leave no mark in the repository."""
    packed = _git(root, "archive", "--format=tar", commit)
    directory.mkdir()
    subprocess.run(["tar", "-x", "-C", str(directory)], input=packed, check=True)


def _give_kernels(root: Path, other: Path) -> None:
    """Compile a tree's native kernels if this one has its own, which serve where sources are equal.

    Raises:
        GateFault: They cannot be compiled.
    """
    ours, theirs = root / _KERNELS, other / _KERNELS
    build = other / _NATIVE / "build.py"
    if not ours.exists() or not build.exists():
        return
    if _sources(root / _NATIVE) == _sources(other / _NATIVE):
        shutil.copy2(ours, theirs)
        return
    done = subprocess.run([sys.executable, build], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["(silent)"]
        raise GateFault(f"the base's kernels: {lines[-1]}")


def _sources(native: Path) -> Mapping[str, bytes]:
    return {
        file.name: file.read_bytes()
        for file in native.iterdir()
        if file.suffix in (".cpp", ".h", ".py")
    }


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


def _effort(search_path: str, artifact: Path) -> dict[int, float]:
    said = _run("counting", search_path, "rbee_bench.effort", str(artifact))
    return {int(batch): effort for batch, effort in json.loads(said).items()}


def _export(search_path: str, model: Path, target: Path) -> None:
    options = ["--out", str(target), "--precision", _PRECISION, "--no-verify"]
    _run("its export", search_path, "rbee_export", "--model", str(model), *options)


def _run(what: str, search_path: str, module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": search_path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["(silent)"]
        raise GateFault(f"{what} ended with code {done.returncode}: {lines[-1]}")
    return done.stdout
