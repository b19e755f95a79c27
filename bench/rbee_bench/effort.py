"""How many instructions of Python a token costs: counted, not timed, so the same every time.

``python -m rbee_bench.effort ARTIFACT`` prints them, by sequences at a time, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from rbee_runtime import Engine, Event, Failed, Finished, Request, SamplingParams

BATCHES = (1, 8)
_FEW, _MANY = 16, 48
_PROMPT = (3, 5, 7, 11)


def count_effort(artifact: Path) -> dict[int, float]:
    """Return the bytecode instructions that the engine's thread runs for one token.

    By sequences at a time. What it takes for a long completion less what it takes for a short one,
    so that neither prompts nor ends are in it. Code in C counts as the one instruction that calls
    it.

    Raises:
        RuntimeFault: The artifact cannot be loaded.
    """
    return {batch: _per_token(artifact, batch) for batch in BATCHES}


class _Counter:
    """Counts the instructions of threads that start while it is installed."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> _Counter:
        threading.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        threading.settrace(None)

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, _frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            self.count += 1
        return self._step


def _per_token(artifact: Path, batch: int) -> float:
    with _Counter() as counter, Engine.load(artifact, slots=batch, context_length=256) as engine:
        _run(engine, batch, _FEW)  # whatever happens only once, happens now
        counts = []
        for tokens in (_FEW, _MANY):
            before = counter.count
            _run(engine, batch, tokens)
            counts.append(counter.count - before)
    few, many = counts
    return (many - few) / (batch * (_MANY - _FEW))


def _run(engine: Engine, batch: int, tokens: int) -> None:
    """Complete prompts that are all there before the first of them is looked at."""
    everybody_is_here = threading.Event()
    left = threading.Semaphore(0)
    faults: list[Exception] = []

    def told(event: Event) -> None:
        if isinstance(event, Failed):
            faults.append(event.error)
        if isinstance(event, Finished | Failed):
            left.release()

    def hold(event: Event) -> None:
        everybody_is_here.wait()
        told(event)

    barred = dict.fromkeys(engine.manifest.eos_token_ids, -100.0)
    sampling = SamplingParams(temperature=0.8, top_p=0.95, seed=1, logit_bias=barred)
    engine.submit(Request("hold", _PROMPT[:1], 1, sampling), hold)
    for row in range(batch):
        engine.submit(Request(f"{row}", (row + 1, *_PROMPT), tokens, sampling), told)
    everybody_is_here.set()
    for _ in range(batch + 1):
        left.acquire()
    if faults:
        raise faults[0]


def main() -> int:
    """Count for the artifact of the first argument."""
    print(json.dumps(count_effort(Path(sys.argv[1]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
