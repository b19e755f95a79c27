"""Run compiled language models: an artifact in, tokens out.

with Engine.load(Path("artifacts/model")) as engine:
    for text in engine.generate("Once upon a time", max_tokens=64):
        print(text, end="", flush=True)
"""

import os
from typing import TYPE_CHECKING

from rbee_runtime.artifact import Artifact, Manifest
from rbee_runtime.completion import Completion
from rbee_runtime.errors import (
    ArtifactError,
    ContextOverflow,
    DeadlineExceeded,
    DeviceError,
    EngineClosed,
    InferenceFailed,
    InvalidRequest,
    InvalidSetting,
    OutOfMemory,
    QueueFull,
    RuntimeFault,
)
from rbee_runtime.events import Event, Failed, Finished, Piece, Started, StopReason
from rbee_runtime.memory import MemoryUse
from rbee_runtime.request import GREEDY, Request, SamplingParams
from rbee_runtime.status import EngineStatus, LoadProgress
from rbee_runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from rbee_runtime.engine import Engine

# Left to itself, ONNX Runtime tells its makers of the machine and the program at every start, and
# keeps on disk what it could not send. It looks when it is loaded, which is later than this.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "GREEDY",
    "Artifact",
    "ArtifactError",
    "Completion",
    "ContextOverflow",
    "DeadlineExceeded",
    "DeviceError",
    "Engine",
    "EngineClosed",
    "EngineStatus",
    "Event",
    "Failed",
    "Finished",
    "InferenceFailed",
    "InvalidRequest",
    "InvalidSetting",
    "LoadProgress",
    "Manifest",
    "MemoryUse",
    "OutOfMemory",
    "Piece",
    "QueueFull",
    "Request",
    "RuntimeFault",
    "SamplingParams",
    "Started",
    "StopReason",
    "Tokenizer",
]


def __getattr__(name: str) -> object:
    """Import the engine, and ONNX Runtime with it, only when somebody asks for it.

    A worker answers its first health check while those still load.
    """
    if name == "Engine":
        from rbee_runtime.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
