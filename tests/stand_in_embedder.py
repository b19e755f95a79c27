"""An embedder without a model, for tests of what lies towards the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from stand_in import StandInEngine

from rbee_runtime.artifact import (
    EmbedderManifest,
    Embedding,
    FileEntry,
    Source,
    TextShapes,
)
from rbee_runtime.embedding import Embedded, EmbeddingEvent, EmbeddingFinished, EmbeddingRequest
from rbee_runtime.events import Failed, StopReason

MODEL = "hf:test/embeds"
DIM = 4

STREAM = """\
data: {"type":"started","job_id":"job-1","model":"hf:test/embeds","started_at":"NOW"}

data: {"type":"output","embedding":[1.25,0.0,-0.5,0.10000000149011612],"dim":4}

data: {"type":"metrics","tokens_per_sec":10.0,"vram_bytes":536870912}

data: {"type":"end","items_out":1,"decode_time_ms":500,"stop_reason":"EOS"}

data: [DONE]

"""
"""What is told of the vector of ``Hello``, but for the voices and the hour."""


def manifest(matryoshka: Literal["any"] | tuple[int, ...] = ()) -> EmbedderManifest:
    return EmbedderManifest(
        exporter="test",
        source=Source(format="safetensors", name="stand-in", sha256="0" * 64),
        model_ref=MODEL,
        family="bert",
        shapes=TextShapes(
            layers=2, hidden=8, intermediate=16, heads=2, vocab=32, context_length=512
        ),
        precision="fp32",
        embedding=Embedding(dim=DIM, pooling="mean", normalized=True, matryoshka=matryoshka),
        files=tuple(
            FileEntry(role=role, path=role, size=1, sha256="0" * 64)
            for role in ("graph", "weights", "tokenizer")
        ),
    )


def embedded(request: EmbeddingRequest, index: int) -> Embedded:
    """Return a vector that tells how long its text is, and which of them it is."""
    numbers = [len(request.inputs[index]) / 4, index, -0.5, 0.1]
    return Embedded(request.request_id, index, np.array(numbers, np.float32))


def finished(request_id: str, tokens: int = 3, stop: Any = StopReason.EOS) -> EmbeddingFinished:
    return EmbeddingFinished(request_id, tokens, 0.5, stop)


def vectors(request: EmbeddingRequest) -> Iterator[EmbeddingEvent]:
    """Embed every text, whose tokens are its letters."""
    for index in range(len(request.inputs)):
        yield embedded(request, index)
    yield finished(request.request_id, sum(map(len, request.inputs)))


@dataclass
class StandInEmbedder(StandInEngine):
    """Answers each request, from a thread, with what ``answer`` returns for it."""

    ends: ClassVar[tuple[type, ...]] = (EmbeddingFinished, Failed)

    answer: Callable[[Any], Iterable[Any]] = vectors
    manifest: Any = field(default_factory=manifest)

    def end_of_cancelled(self, request_id: str) -> Any:
        return finished(request_id, stop=StopReason.CANCELLED)
