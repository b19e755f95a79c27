"""Run compiled models: an artifact in; tokens, vectors or scores out.

with Engine.load(Path("artifacts/model")) as engine:
    for text in engine.generate("Once upon a time", max_tokens=64):
        print(text, end="", flush=True)

with Embedder.load(Path("artifacts/embedding-model")) as embedder:
    vectors = embedder.embed(["A bee", "A hive"])

with Reranker.load(Path("artifacts/reranker")) as reranker:
    scores = reranker.score("how do bees find home", ["A bee", "A hive"])
"""

import os
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from rbee_runtime.artifact import Artifact, Manifest, Task, task_of
from rbee_runtime.completion import Completion
from rbee_runtime.constraint import (
    AfterReasoning,
    Constraint,
    Function,
    JsonSchema,
    Regex,
    ToolCalls,
)
from rbee_runtime.errors import (
    ArtifactError,
    ContextOverflow,
    DeadlineExceeded,
    DeviceError,
    EngineClosed,
    InferenceFailed,
    InputTooLong,
    InvalidRequest,
    InvalidSetting,
    OutOfMemory,
    QueueFull,
    RuntimeFault,
)
from rbee_runtime.events import Event, Failed, Finished, Piece, Started, StopReason
from rbee_runtime.logprobs import TokenLogprob, TokenLogprobs
from rbee_runtime.memory import MemoryUse
from rbee_runtime.request import GREEDY, Request, SamplingParams
from rbee_runtime.status import EngineStatus, LoadProgress
from rbee_runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from rbee_runtime.artifact import (
        EmbedderArtifact,
        EmbedderManifest,
        RerankerArtifact,
        RerankerManifest,
    )
    from rbee_runtime.embedder import Embedder
    from rbee_runtime.embedding.events import Embedded, EmbeddingEvent, EmbeddingFinished
    from rbee_runtime.embedding.request import EmbeddingRequest
    from rbee_runtime.engine import Engine
    from rbee_runtime.reranker import Ranked, Reranker
    from rbee_runtime.reranking.events import RerankEvent, Scored
    from rbee_runtime.reranking.request import RerankRequest
    from rbee_runtime.tools import CallReader

# Left to itself, ONNX Runtime tells its makers of the machine and the program at every start, and
# keeps on disk what it could not send. It looks when it is loaded, which is later than this.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "GREEDY",
    "AfterReasoning",
    "Artifact",
    "ArtifactError",
    "CallReader",
    "Completion",
    "Constraint",
    "ContextOverflow",
    "DeadlineExceeded",
    "DeviceError",
    "Embedded",
    "Embedder",
    "EmbedderArtifact",
    "EmbedderManifest",
    "EmbeddingEvent",
    "EmbeddingFinished",
    "EmbeddingRequest",
    "Engine",
    "EngineClosed",
    "EngineStatus",
    "Event",
    "Failed",
    "Finished",
    "Function",
    "InferenceFailed",
    "InputTooLong",
    "InvalidRequest",
    "InvalidSetting",
    "JsonSchema",
    "LoadProgress",
    "Manifest",
    "MemoryUse",
    "OutOfMemory",
    "Piece",
    "QueueFull",
    "Ranked",
    "Regex",
    "Request",
    "RerankEvent",
    "RerankRequest",
    "Reranker",
    "RerankerArtifact",
    "RerankerManifest",
    "RuntimeFault",
    "SamplingParams",
    "Scored",
    "Started",
    "StopReason",
    "Task",
    "TokenLogprob",
    "TokenLogprobs",
    "Tokenizer",
    "ToolCalls",
    "task_of",
]


_LATER: Mapping[str, str] = MappingProxyType(
    {
        "CallReader": "tools",
        "Embedded": "embedding.events",
        "Embedder": "embedder",
        "EmbedderArtifact": "artifact",
        "EmbedderManifest": "artifact",
        "EmbeddingEvent": "embedding.events",
        "EmbeddingRequest": "embedding.request",
        "EmbeddingFinished": "embedding.events",
        "Engine": "engine",
        **dict.fromkeys(("Ranked", "Reranker"), "reranker"),
        **dict.fromkeys(("RerankerArtifact", "RerankerManifest"), "artifact"),
        **dict.fromkeys(("RerankEvent", "Scored"), "reranking.events"),
        "RerankRequest": "reranking.request",
    }
)
"""What takes its time to import, and where it is."""


def __getattr__(name: str) -> object:
    """Import what runs models, and ONNX Runtime with it, only when somebody asks for it.

    A worker answers its first health check while those still load, and runs models of one kind.
    """
    if name in _LATER:
        return getattr(import_module(f"rbee_runtime.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
