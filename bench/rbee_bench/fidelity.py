"""How far each engine's predictions are from what the weights mean, over ordinary text."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rbee_bench.peers import PeerFault, PeerProcess, Spec, require_eager
from rbee_bench.peers.peer import Logits
from rbee_bench.plain_rounding import rounded_plainly
from rbee_bench.subject import Progress, Subject
from rbee_export import open_checkpoint
from rbee_export.fidelity import divergence, log_softmax

PLAIN = "int4, rounded to the nearest"
"""What ``int4`` is beside: the same format, size and kernels, and weights rounded by themselves."""


@dataclass(frozen=True, slots=True)
class Closeness:
    """One engine beside the reference.

    Attributes:
        label: The engine.
        version: Its version.
        divergence: Mean Kullback-Leibler divergence of its distribution from the reference's, in
            nats, worked out in float64.
        agreement: Share of positions at which the likeliest token is the same.
    """

    label: str
    version: str
    divergence: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Every engine beside the reference.

    Attributes:
        reference: Version of the reference.
        tokens: Positions compared.
        rows: The engines that ran.
        skipped: By label, why an engine did not.
    """

    reference: str
    tokens: int
    rows: tuple[Closeness, ...]
    skipped: dict[str, str]


def measure_fidelity(subject: Subject, text: str, tokens: int, progress: Progress) -> Fidelity:
    """Feed the first ``tokens`` tokens of ``text`` to every engine and compare all predictions.

    Raises:
        PeerFault: The reference cannot run here.
        ValueError: The text is shorter than that.
    """
    require_eager()
    ids = subject.tokenizer(progress).encode(text)[:tokens]
    if len(ids) < tokens:
        raise ValueError(f"the text has {len(ids)} tokens, not {tokens}; give a longer --text")
    ours = subject.ours(("gguf", "int8", "int4"), progress)
    int4 = next(spec for spec in ours if spec.label == "int4")
    others = [subject.peer("llama.cpp", tokens), subject.peer("genai", tokens)]
    reference = subject.peer("eager", tokens)
    rows, skipped = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        plain = _plain(subject, int4, Path(scratch) / "plain", progress)
        specs = [*ours, plain, *others]
        progress(reference.label, 0, len(specs) + 1)
        version, expected = _score(reference, ids, Path(scratch) / "reference")
        for number, spec in enumerate(specs, start=1):
            progress(spec.label, number, len(specs) + 1)
            try:
                measured, logits = _score(spec, ids, Path(scratch) / "logits")
            except PeerFault as fault:
                skipped[spec.label] = str(fault)
            else:
                rows.append(Closeness(spec.label, measured, *compare(logits, expected)))
    return Fidelity(version, tokens, tuple(rows), skipped)


def _plain(subject: Subject, int4: Spec, target: Path, progress: Progress) -> Spec:
    """Make what ``int4`` would be if weights were rounded to the nearest, in the same format."""
    progress("rounding to the nearest", 0, 0)
    artifact = subject.artifact("int4", progress)
    plain = rounded_plainly(artifact, open_checkpoint(subject.gguf), target)
    return replace(int4, label=PLAIN, model=plain)


def compare(logits: Logits, reference: Logits) -> tuple[float, float]:
    """Return mean divergence from the reference in nats, and top-1 agreement.

    Args:
        logits: ``float32[tokens, vocab]``.
        reference: As ``logits``.
    """
    total = sum(
        divergence(log_softmax(mine), log_softmax(theirs))
        for mine, theirs in zip(logits, reference, strict=True)
    )
    agreement = float((logits.argmax(-1) == reference.argmax(-1)).mean())
    return total / len(reference), agreement


def _score(spec: Spec, ids: Sequence[int], file: Path) -> tuple[str, Logits]:
    with PeerProcess(spec) as peer:
        return peer.version, peer.score(ids, file)
