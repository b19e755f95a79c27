"""The worker's program around a real engine that fails as it is told.

python -m rbee_bench.faulty_worker '{"stage": "decode", "kind": "crash"}' --model ...
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbee_bench.wrapped_backend import WrappedBackend
from rbee_runtime import Engine
from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import Backend, open_backend
from rbee_runtime.errors import ArtifactError, InferenceFailed
from rbee_runtime.step import Step
from rbee_runtime.tokenizer import Tokenizer
from rbee_runtime.watchdog import DEFAULT_STEP_LIMIT
from rbee_service.cli import main as worker_main
from rbee_service.loading import LayerProgress
from rbee_service.model_loader import CompletionBackend
from rbee_service.options import Options


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to go wrong.

    Attributes:
        stage: ``load``, ``prefill``, ``decode``, or empty for none.
        kind: ``fault``: the backend says so, once; ``crash``: it raises what nobody expects;
            ``hang``: it does not come back.
        load_seconds: Added to the loading.
        step_seconds: Added to each step of the engine.
        step_limit: Seconds after which a step is given up; 0.0 for the worker's own.
        jump_seconds: By which the wall clock jumps a second after the model is loaded.
    """

    stage: str = ""
    kind: str = "fault"
    load_seconds: float = 0.0
    step_seconds: float = 0.0
    step_limit: float = 0.0
    jump_seconds: float = 0.0


class FaultyBackend(WrappedBackend):
    """A backend that follows a plan."""

    def __init__(self, backend: Backend, plan: Plan) -> None:
        super().__init__(backend)
        self._plan = plan
        self._failed = False

    def run(self, step: Step) -> NDArray[np.float32]:
        """Run a step, or do not."""
        time.sleep(self._plan.step_seconds)
        stage = "decode" if all(len(row.tokens) == 1 for row in step.rows) else "prefill"
        if stage == self._plan.stage:
            if self._plan.kind == "crash":
                raise MemoryError("as planned")
            if self._plan.kind == "hang":
                time.sleep(3600)
            if not self._failed:
                self._failed = True
                raise InferenceFailed("as planned")
        return super().run(step)


def main(arguments: list[str]) -> int:
    """Run the worker; return its exit code."""
    plan = Plan(**json.loads(arguments[0]))

    def load(
        artifact: Path, options: Options, progress: Callable[[LayerProgress], None]
    ) -> CompletionBackend:
        progress(LayerProgress())
        time.sleep(plan.load_seconds)
        if plan.stage == "load":
            if plan.kind == "crash":
                raise MemoryError("as planned")
            raise ArtifactError(f"{artifact}: as planned")
        opened = Artifact.open(artifact)
        backend = open_backend(opened, slots=options.slots, context=options.context_length)
        tokenizer = Tokenizer.open(opened.file("tokenizer"), None, None, None)
        if plan.jump_seconds:
            threading.Timer(1.0, _jump, [plan.jump_seconds]).start()
        return Engine(
            opened,
            tokenizer,
            FaultyBackend(backend, plan),
            options.max_queue,
            options.max_prefill_chunk,
            step_limit=plan.step_limit or DEFAULT_STEP_LIMIT,
        )

    return worker_main(arguments[1:], load)


def _jump(seconds: float) -> None:
    now = time.time
    setattr(time, "time", lambda: now() + seconds)  # noqa: B010 (no type checker lets it be assigned)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
