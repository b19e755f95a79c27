"""What the GPU's memory and arithmetic give at best."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

from gpu_check import place
from gpu_check.child import Report
from rbee_runtime.device.cuda_array import CudaArray, strips

MOST_BYTES = 4 << 30
MOST_ROWS = 8192
DEVICE = "cuda"
_TURNS, _REPEATS = 5, 8


def copying(report: Report) -> None:
    """Measure how fast memory is copied within the GPU, bytes read and written together."""
    library = place.library()
    size = min(MOST_BYTES, library.memory()[0] // 4)
    source, target = library.allocate(size), library.allocate(size)
    stream = library.stream()
    (strip,) = strips(
        CudaArray.of(target, (size,), "uint8"), CudaArray.of(source, (size,), "uint8")
    )

    def copy() -> None:
        for _ in range(_REPEATS):
            library.within(strip, stream)
        library.wait(stream)

    _say(report, "memory, copied", "bytes", 2 * size * _REPEATS, copy)
    library.free(source)
    library.free(target)


def computing(report: Report) -> None:
    """Measure how fast torch reads memory, and multiplies two matrices in 16 bits."""
    torch: Any = importlib.import_module("torch")
    free = MOST_BYTES
    wait: Callable[[], object] = lambda: None  # noqa: E731
    if DEVICE == "cuda":
        free, _ = torch.cuda.mem_get_info()
        wait = torch.cuda.synchronize
    size = min(MOST_BYTES, free // 4)
    values = torch.ones(size // 4, dtype=torch.float32, device=DEVICE)

    def read() -> None:
        for _ in range(_REPEATS):
            torch.sum(values)
        wait()

    _say(report, "memory, read", "bytes", 4 * values.numel() * _REPEATS, read)
    # Random: on zeros, chips run faster than they do on numbers.
    left, right = (
        torch.randn(MOST_ROWS, MOST_ROWS, dtype=torch.float16, device=DEVICE) for _ in range(2)
    )

    def multiply() -> None:
        for _ in range(_REPEATS):
            left @ right
        wait()

    _say(report, "matrix product, fp16", "operations", 2 * MOST_ROWS**3 * _REPEATS, multiply)


def _say(report: Report, what: str, unit: str, amount: int, work: Callable[[], None]) -> None:
    """Do some work a few times and say the best rate; disturbances only lower it."""
    work()
    best = 0.0
    for _ in range(_TURNS):
        start = time.perf_counter()
        work()
        best = max(best, amount / (time.perf_counter() - start))
    found: dict[str, Any] = {"what": what, "unit": unit, "a second": best}
    report.row(**found)
