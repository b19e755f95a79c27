"""Runs artifacts of the standard dialect on ONNX Runtime's providers over the stand-in libraries.

Run as a program, with the libraries in ``LD_LIBRARY_PATH`` and ``BACKEND ARTIFACT…``. Prints a JSON
object for each artifact: what steps ask of the GPU, or the error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rbee_runtime.artifact import Artifact
from rbee_runtime.backend import open_backend, opening
from rbee_runtime.device import CudaDevice, CudaLibrary
from rbee_runtime.errors import RuntimeFault
from rbee_runtime.request import GREEDY, SamplingParams
from rbee_runtime.sampling import RowSampler
from rbee_runtime.step import Row, Step

from .place import Counts


class AllCounts(Counts):
    """Copies within the GPU among them."""

    def take(self) -> dict[str, int]:
        within = self._copies[3]
        return {**super().take(), "within": within}


def steps(artifact: Artifact, name: str) -> dict[str, dict[str, int]]:
    """Return what warming up, a prompt and steps of three rows ask of the GPU."""
    backend = open_backend(artifact, name, slots=4, context=128, budget=1 << 28)
    counts = AllCounts()
    counts.take()
    backend.warm_up()
    asked = {"warm_up": counts.take()}
    for _ in range(2):
        counts.take()
        backend.advance(Step.of(2, 0, [3] * 20), None)
    asked["prompt"] = counts.take()
    params = {"greedy": GREEDY, "sampled": SamplingParams(top_p=0.9, seed=1)}
    for kind, one in params.items():
        samplers = [RowSampler(one, ()) for _ in range(3)]
        for past in (5, 6, 7):
            counts.take()
            backend.advance(Step(0, [Row(past, [3])] * 3), samplers)
        asked[kind] = counts.take()
    return asked


def main(name: str, *paths: str) -> None:
    opening.open_cuda = lambda index: CudaDevice(CudaLibrary.load(index), index, lambda: 0)
    for path in map(Path, paths):
        report: dict[str, Any] = {"artifact": path.name}
        try:
            report["asked"] = steps(Artifact.open(path), name)
        except RuntimeFault as error:
            report["error"] = str(error)
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
