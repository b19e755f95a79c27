"""What is measured: engines that continue a sequence of tokens, greedily."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rbee_runtime.backend import CacheType

Kind = Literal["compiled", "llama.cpp", "genai", "openvino", "vllm", "eager"]
OTHERS: tuple[Kind, ...] = ("llama.cpp", "genai", "openvino", "vllm", "eager")
"""What people would use instead, in the order of tables."""

Arithmetic = Literal["fp32", "int8"]
Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Spec:
    """A peer to open.

    Attributes:
        kind: Which engine.
        label: Its name in tables.
        model: An artifact for ``compiled``, the GGUF file it was made from for the others.
        capacity: Positions its cache must hold.
        threads: Threads to compute with; 0 leaves it to the engine, as ``compiled`` always does.
        workspace: Directory for what a peer converts the model into, kept between runs.
        sequences: Sequences its cache must hold at a time.
        cache_type: What ``compiled`` keeps its cache in, if not what it is in by itself.
    """

    kind: Kind
    label: str
    model: Path
    capacity: int
    threads: int
    workspace: Path
    sequences: int = 1
    cache_type: CacheType | None = None

    def to_json(self) -> str:
        """Return one line that :meth:`from_json` reads."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        for name in ("model", "workspace"):
            fields[name] = Path(fields[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Timing:
    """What was timed.

    Attributes:
        tokens: Tokens that came in that time.
        seconds: How long it took.
    """

    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Reads:
    """What one token of one sequence makes an engine read and compute, at least.

    Attributes:
        weights: Bytes of the weights it multiplies by, as the engine's model stores them. Not the
            embedding, of which a token takes one row, unless it is the output projection too.
        position: Bytes of the KV cache for each position that the token attends to.
        operations: What it multiplies and adds: two for each weight of those matrices. Attention,
            which depends on the position, is not counted.
        arithmetic: In what it multiplies: which of the machine's limits holds for it. ``None``
            where none of those that are measured does.
    """

    weights: int
    position: int
    operations: int
    arithmetic: Arithmetic | None


class Peer(Protocol):
    """An engine with its model loaded.

    Attributes:
        version: Name and version of what computes.
    """

    version: str

    def decode(self, prompt: Sequence[int], tokens: int) -> Timing:
        """Complete ``prompt`` with ``tokens`` tokens, sampling included, and time all but one.

        From the first token to the last; fewer if the text comes to an end.
        """
        ...

    def prefill(self, prompt: Sequence[int]) -> Timing:
        """Run ``prompt``, none of it known from before, and time it to the logits at its end."""
        ...

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        """Complete prompts together with ``tokens`` tokens each, and time it all.

        The prompts are of one length. An end of text ends nothing, where the engine lets its
        caller say so.
        """
        ...

    def complete(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """Return the ``tokens`` tokens that follow ``prompt``, going on past an end of text."""
        ...

    def score(self, ids: Sequence[int]) -> Iterator[Logits]:
        """Yield the logits after each of ``ids``, ``float32[vocab]``, valid until the next."""
        ...

    def reads(self) -> Reads | None:
        """Return what a token reads, where the engine lets that be known."""
        ...


class Stepper(Protocol):
    """Runs a model one step at a time."""

    def begin(self, prompt: Sequence[int]) -> Logits:
        """Forget everything, run ``prompt``, and return the logits after it."""
        ...

    def step(self, token: int) -> Logits:
        """Run one more token and return the logits after it."""
        ...


def timed_steps(stepper: Stepper, prompt: Sequence[int], tokens: int) -> Timing:
    """:meth:`Peer.decode` for an engine that leaves the loop to its caller."""
    token = int(stepper.begin(prompt).argmax())
    start = time.perf_counter()
    for _ in range(tokens - 1):
        token = int(stepper.step(token).argmax())
    return Timing(tokens - 1, time.perf_counter() - start)


def timed_prefill(stepper: Stepper, prompt: Sequence[int]) -> Timing:
    """:meth:`Peer.prefill` for an engine that leaves the loop to its caller."""
    start = time.perf_counter()
    stepper.begin(prompt)
    return Timing(len(prompt), time.perf_counter() - start)


def complete_steps(stepper: Stepper, prompt: Sequence[int], tokens: int) -> list[int]:
    """:meth:`Peer.complete`, step by step."""
    completion = [int(stepper.begin(prompt).argmax())]
    while len(completion) < tokens:
        completion.append(int(stepper.step(completion[-1]).argmax()))
    return completion


def score_steps(stepper: Stepper, ids: Sequence[int]) -> Iterator[Logits]:
    """:meth:`Peer.score`, step by step, as decoding runs."""
    yield stepper.begin(ids[:1])
    for token in ids[1:]:
        yield stepper.step(token)
