"""How fast each engine embeds texts, all of them by turns, and how well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from rbee_bench.contest import Rounds
from rbee_bench.embedders import EmbedderProcess, Waits
from rbee_bench.embedders.embedder import REFERENCE, Vectors
from rbee_bench.encoder_subject import EncoderSubject
from rbee_bench.percentiles import Percentiles
from rbee_bench.subject import Progress
from rbee_bench.taking_turns import take_turns
from rbee_bench.texts import QUESTIONS, evenly, paragraphs

TOGETHER = 32
"""Texts of a batch."""

RIGHT = 0.98
"""Mean cosine to the reference below which an engine's vectors are others."""

Work = Literal["alone", "together", "bulk"]


@dataclass(frozen=True, slots=True)
class Embedding(Rounds):
    """One engine's rounds at one work.

    Attributes:
        label: The engine.
        ours: Whether it is the compiled runtime.
        version: Its version.
        rates: Texts a second, one a round.
        waits: Of all rounds' calls.
    """

    label: str
    ours: bool
    version: str
    rates: tuple[float, ...]
    waits: Percentiles


@dataclass(frozen=True, slots=True)
class Texts:
    """What is embedded at one work, and how fast.

    Attributes:
        work: ``alone``: one text a call; ``together``: a batch a call; ``bulk``: all in one call.
        texts: Texts of a round.
        tokens: Their tokens, special ones included.
        rows: The engines that ran, the compiled ones first.
    """

    work: Work
    texts: int
    tokens: int
    rows: tuple[Embedding, ...]

    def token_rate(self, row: Embedding) -> float:
        """Return an engine's tokens a second; what it pads with counts for nothing."""
        return row.median * self.tokens / self.texts


@dataclass(frozen=True, slots=True)
class Alike:
    """How an engine's vectors are beside the reference's.

    Attributes:
        mean: Mean cosine of a text's two vectors.
        least: The least.
        found: Share of questions to which the same paragraph is next.
    """

    mean: float
    least: float
    found: float


@dataclass(frozen=True, slots=True)
class Embed:
    """Every engine's rounds, measured by turns.

    Attributes:
        parts: One for each work.
        alike: By label; empty if the reference did not run.
        reference: The engine whose vectors are right.
        skipped: By label, why an engine did not run.
        bystanders: Share of the processor that other programs had meanwhile, at worst.
    """

    parts: tuple[Texts, ...]
    alike: dict[str, Alike]
    reference: str
    skipped: dict[str, str]
    bystanders: float


def measure_embed(subject: EncoderSubject, *, texts: int, rounds: int, progress: Progress) -> Embed:
    """Time questions one by one, paragraphs 32 at a time, and all of them at once.

    Args:
        subject: The model.
        texts: Paragraphs, at most; those that the model can take.
        rounds: Rounds that count.
        progress: Called as it goes on.

    Raises:
        PeerFault: An engine that ran at first failed later.
        ExportError: The model cannot be exported.
    """
    specs = subject.specs(progress)
    known = paragraphs()
    lengths = dict(zip(known, subject.lengths(known, progress), strict=True))
    longest = subject.checkpoint.config.context_length
    bulk = evenly([text for text in known if lengths[text] <= longest], texts)
    some = evenly(bulk, 4 * TOGETHER)
    calls: dict[Work, list[list[str]]] = {
        "alone": [[question] for question in QUESTIONS],
        "together": [some[start::4] for start in range(4)],
        "bulk": [bulk],
    }
    kept: dict[str, tuple[str, Vectors, Vectors]] = {}

    with TemporaryDirectory() as scratch:

        def keep(engines: Mapping[str, EmbedderProcess]) -> None:
            for label, engine in engines.items():
                if label not in kept:
                    file = Path(scratch) / "vectors.npy"
                    found = engine.embed([*bulk, *QUESTIONS], file)
                    kept[label] = engine.version, found[: len(bulk)], found[len(bulk) :]

        taken = take_turns(
            specs,
            EmbedderProcess,
            partial(EmbedderProcess.time, calls=[list(QUESTIONS[:2]), bulk[:TOGETHER]]),
            {work: partial(EmbedderProcess.time, calls=each) for work, each in calls.items()},
            rounds=rounds,
            progress=progress,
            afterwards=keep,
        )
    ours = {spec.label for spec in specs if spec.kind == "compiled"}
    counts = {text: subject.lengths([text], progress)[0] for text in QUESTIONS} | lengths
    parts = tuple(
        Texts(
            work,
            sum(map(len, each)),
            sum(counts[text] for call in each for text in call),
            tuple(
                _row(label, label in ours, kept[label][0], sum(map(len, each)), rounds_taken)
                for label, rounds_taken in taken.measured[work].items()
            ),
        )
        for work, each in calls.items()
    )
    return Embed(parts, _alike(kept), REFERENCE, taken.skipped, taken.bystanders)


def _row(label: str, ours: bool, version: str, texts: int, rounds: Sequence[Waits]) -> Embedding:
    seconds = [each for waits in rounds for each in waits.seconds]
    rates = tuple(texts / waits.total for waits in rounds)
    return Embedding(label, ours, version, rates, Percentiles.of(seconds))


def _alike(kept: Mapping[str, tuple[str, Vectors, Vectors]]) -> dict[str, Alike]:
    if REFERENCE not in kept:
        return {}
    _, right, asked = kept[REFERENCE]
    nearest = (_unit(asked) @ _unit(right).T).argmax(1)
    alike = {}
    for label, (_, texts, questions) in kept.items():
        cosines = (_unit(texts) * _unit(right)).sum(1)
        same = (_unit(questions) @ _unit(texts).T).argmax(1) == nearest
        alike[label] = Alike(*map(float, (cosines.mean(), cosines.min(), same.mean())))
    return alike


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
