"""Whether a graph computes what the model does that it was traced from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rbee_export.errors import UnsupportedModel
from rbee_export.optimum_path.graph import Interface, present
from rbee_export.optimum_path.schedule import Schedule
from rbee_export.optimum_path.traced import REFERENCE

TOLERANCE = 1e-3
"""Root mean square of the logits' error over that of the logits, both float32 throughout.

Rounding makes some 1e-6 of it; a mask or a rotary embedding that froze in the trace, some 0.1.
"""


def check(graph: Path, interface: Interface, traced: Path, checkpoint: Path) -> float:
    """Run the graph over the reference's text, in steps of all kinds, and compare the logits.

    A trace fixes whatever the model decided by the length of its input; here is where that shows.

    Args:
        graph: The graph, its weights beside it.
        interface: Its inputs and outputs.
        traced: The tracing process's output directory.
        checkpoint: For messages.

    Returns:
        The largest relative error of a step.

    Raises:
        UnsupportedModel: ONNX Runtime cannot run the graph, or it computes something else.
    """
    with np.load(traced / REFERENCE, allow_pickle=False) as reference:
        ids, expected = reference["ids"], reference["logits"]
    schedule = Schedule.over(len(ids))
    try:
        runner = _Runner(graph, interface)
        logits = [runner.step(ids[:1])]
        runner.reset()
        start = 0
        for count in schedule.steps:
            logits.append(runner.step(ids[start : start + count]))
            start += count
    except Exception as error:  # the library's exceptions share no narrower base
        said = " ".join(str(error).split())[:300]
        raise UnsupportedModel(
            f"{checkpoint}: ONNX Runtime cannot run the export: {said}"
        ) from error
    computed = np.stack([logits[0], *logits[-schedule.compared :]])
    centred = expected - expected.mean(-1, keepdims=True)
    errors = _root_mean_square(computed - expected) / np.maximum(_root_mean_square(centred), 1e-30)
    worst = float(errors.max())
    if not worst <= TOLERANCE:  # NaN, too
        position = [0, *schedule.compared_positions][int(errors.argmax())]
        raise UnsupportedModel(
            f"{checkpoint}: optimum's export computes something else than the model "
            f"(logits off by {worst:.1%} at position {position}); it cannot be served"
        )
    return worst


class _Runner:
    """Runs a graph step by step, its cache carried along."""

    def __init__(self, graph: Path, interface: Interface) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._shapes = interface.cache
        self._takes = {value.name for value in self._session.get_inputs()}
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._past = 0
        self._cache: dict[str, NDArray[np.float32]] = {
            name: np.zeros((1, heads, 0, width), np.float32)
            for name, (heads, width) in self._shapes.items()
        }

    def step(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Run tokens after those run before; return the last one's logits, ``float32[vocab]``."""
        total = self._past + len(ids)
        feed: dict[str, Any] = {
            "input_ids": ids[None],
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(self._past, total, dtype=np.int64)[None],
            **self._cache,
        }
        names = [present(name) for name in self._cache]
        logits, *cache = self._session.run(
            ["logits", *names], {name: feed[name] for name in self._takes}
        )
        for name, tensor in zip(self._cache, cache, strict=True):
            heads, width = self._shapes[name]
            if tensor.shape != (1, heads, total, width):
                raise ValueError(
                    f"after {total} positions, {present(name)} is of {list(tensor.shape)}"
                )
            self._cache[name] = tensor
        self._past = total
        last: NDArray[np.float32] = logits[0, -1]
        return last


def _root_mean_square(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.sqrt(np.mean(rows.astype(np.float64) ** 2, -1))
    return result
