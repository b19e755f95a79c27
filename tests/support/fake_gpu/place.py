"""Opens artifacts on the CUDA provider over the stand-in libraries, and decodes with them.

Run as a program, with the libraries in ``LD_LIBRARY_PATH``. Prints a JSON object for each artifact:
the operators that are not the provider's, or the error; and after

- ``--decode``, what a step asks of the GPU, which with ``--no-capture`` fails to capture;
- ``--kernels``, what prompts and steps launch, by their kind and size;
- ``--odd``, either with memory that does not begin where CUDA's does.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from rbee_runtime.artifact import Artifact, open_artifact
from rbee_runtime.backend import OnnxBackend
from rbee_runtime.backend.session import open_session
from rbee_runtime.device import CudaDevice, CudaLibrary
from rbee_runtime.errors import RuntimeFault
from rbee_runtime.memory import plan_cache
from rbee_runtime.request import GREEDY, SamplingParams
from rbee_runtime.sampling import RowSampler
from rbee_runtime.step import Row, Step


def outside(graph: Path, *, captures: bool = True) -> list[str]:
    """Return the operators of a graph that run on the CPU beside the provider.

    Small graphs that draw tokens are the same for many models: each is opened once.
    """
    content = graph.read_bytes()
    if content not in _KNOWN:
        _KNOWN[content] = _outside(graph, captures)
    return _KNOWN[content]


_KNOWN: dict[bytes, list[str]] = {}


def _outside(graph: Path, captures: bool) -> list[str]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    own = {"enable_cuda_graph": "1" if captures else "0"}
    providers = [("CUDAExecutionProvider", own), "CPUExecutionProvider"]
    session = ort.InferenceSession(graph, options, providers=providers)
    return [
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != "CUDAExecutionProvider"
        for node in part.get_nodes()
    ]


class Counts:
    """What the stand-in was asked since the last time."""

    def __init__(self) -> None:
        runtime = ctypes.CDLL(f"libcudart.so.{ort.cuda_version.partition('.')[0]}")
        copies = (ctypes.c_long * 5).in_dll(runtime, "fake_copies")
        names = ("fake_allocations", "fake_captures", "fake_replays", "fake_waits")
        self._numbers: Mapping[str, Any] = {
            name.removeprefix("fake_"): ctypes.c_long.in_dll(runtime, name) for name in names
        }
        self._copies = copies
        self.capture_fails = ctypes.c_long.in_dll(runtime, "fake_capture_fails")
        self.odd = ctypes.c_long.in_dll(runtime, "fake_odd")
        self._launched = (ctypes.c_char * (1 << 20)).in_dll(runtime, "fake_launched")

    def take(self) -> dict[str, int]:
        counts = {name: number.value for name, number in self._numbers.items()}
        counts |= {"to_device": self._copies[1], "to_host": self._copies[2]}
        for number in self._numbers.values():
            number.value = 0
        ctypes.memset(self._copies, 0, ctypes.sizeof(self._copies))
        return counts

    def launched(self) -> list[str]:
        """Return the names of the kernels launched since the last time, and of CUDA's products."""
        names = bytes(self._launched.value).decode().splitlines()
        self._launched[0] = b"\0"
        return names


def opened(artifact: Artifact, slots: int, *, graphs: bool = True) -> OnnxBackend:
    """Open an artifact on the stand-in."""
    device = CudaDevice(CudaLibrary.load(0), 0, lambda: 0)
    plan = plan_cache(artifact.manifest.cache, 320, 1 << 30, slots=slots, context=320, chunk=256)
    session = open_session(artifact.file("graph"), device)
    return OnnxBackend(artifact, session, plan, device, graphs=graphs)


def kernels(artifact: Artifact) -> dict[str, list[str]]:
    """Return what is launched for prompts and for steps of several rows, by their kind and size."""
    backend, counts, launched = opened(artifact, 32, graphs=False), Counts(), {}
    backend.warm_up()
    for tokens in (64, 256):
        counts.launched()
        backend.advance(Step.of(0, 0, [3] * tokens), None)
        launched[f"prompt {tokens}"] = counts.launched()
    for rows in (1, 8, 32):
        counts.launched()
        backend.advance(Step(0, [Row(5, [3])] * rows), None)
        launched[f"decode {rows}"] = counts.launched()
    return launched


def decode(artifact: Artifact, *, captures: bool) -> dict[str, dict[str, int]]:
    """Return what warming up and steps of three rows ask of the GPU."""
    backend, counts = opened(artifact, 4), Counts()
    counts.capture_fails.value = not captures
    asked = {}
    counts.take()
    backend.warm_up()
    asked["warm_up"] = counts.take()
    params = {"greedy": GREEDY, "sampled": SamplingParams(top_p=0.9, seed=1)}
    for name, one in params.items():
        samplers = [RowSampler(one, ()) for _ in range(3)]
        for past in (5, 6, 7):
            counts.take()
            backend.advance(Step(0, [Row(past, [3])] * 3), samplers)
        asked[name] = counts.take()
    return asked


def main(paths: list[str]) -> None:
    decodes = "--decode" in paths
    if "--odd" in paths:
        CudaLibrary.load(0)
        Counts().odd.value = 8
    for path in (Path(path) for path in paths if not path.startswith("--")):
        artifact = open_artifact(path)
        report: dict[str, Any] = {"artifact": path.name}
        try:
            entries = {entry.role: entry.path for entry in artifact.manifest.files}
            captures = isinstance(artifact, Artifact)
            for role in ("graph", "greedy", "sampler"):
                if role in entries:
                    report[role] = outside(path / entries[role], captures=captures)
            if decodes and isinstance(artifact, Artifact):
                report["asked"] = decode(artifact, captures="--no-capture" not in paths)
            if "--kernels" in paths:
                report["kernels"] = kernels(artifact)
        except (RuntimeFault, RuntimeError) as error:
            report["error"] = str(error)
        except Exception as error:  # ONNX Runtime's share no narrower base
            report["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
