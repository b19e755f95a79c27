"""Do captured graphs compute what uncaptured ones do?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu_check import place
from gpu_check.child import Report
from gpu_check.families import MODELS
from gpu_check.parity import IDS
from gpu_check.random_weights import RandomCheckpoint
from rbee_export import Options
from rbee_runtime.backend import Backend
from rbee_runtime.request import GREEDY, SamplingParams
from rbee_runtime.sampling import RowSampler
from rbee_runtime.step import Row, Step

COMPARED = ("llama", "gemma3_text", "phi3-longrope", "qwen3", "llama-128")
SAMPLING = {
    "greedy": GREEDY,
    "sampled": SamplingParams(seed=1, top_p=0.9, repetition_penalty=1.2),
}
_PROMPT, _END = 9, 60


def compare(report: Report) -> None:
    """Complete with and without captured graphs, greedily and not."""
    for name in COMPARED:
        for how in SAMPLING:
            report.row(family=name, drawn=how, **of_family(name, how, report.directory))


def of_family(name: str, how: str, directory: Path) -> dict[str, Any]:
    """Return whether the completions are the same, and if any graph was captured at all."""
    checkpoint = RandomCheckpoint(name, MODELS[name])
    path = place.compiled(checkpoint, directory / f"{name}-{how}", Options("fp16", target="cuda"))
    captured, plain = place.open_gpu(path), place.open_gpu(path, graphs=False)
    captured.warm_up()
    params = SAMPLING[how]
    same = completed(captured, params) == completed(plain, params)
    return {"captured": captured.captures, "the same": same, "holds": same and captured.captures}


def completed(backend: Backend, params: SamplingParams) -> list[list[int | None]]:
    """Decode three rows, as many as no captured graph has."""
    samplers = [RowSampler(params, IDS[:_PROMPT]) for _ in range(3)]
    for slot in range(3):
        backend.advance(Step.of(slot, 0, IDS[slot : slot + _PROMPT]), None)
    tokens: list[list[int | None]] = [[5], [6], [7]]
    for past in range(_PROMPT, _END):
        rows = [Row(past, [own[-1] or 0]) for own in tokens]
        for own, token in zip(tokens, backend.advance(Step(0, rows), samplers), strict=True):
            own.append(token)
    return tokens
