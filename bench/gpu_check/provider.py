"""What is there: the GPU, its driver, ONNX Runtime and the libraries that it took."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnxruntime as ort

from gpu_check import place
from gpu_check.child import Missing, Report
from gpu_check.families import FAMILIES
from gpu_check.random_weights import RandomCheckpoint
from rbee_bench.machine import Machine
from rbee_export import Options
from rbee_runtime.errors import ArtifactError, DeviceError

_PACKAGES = (
    *("onnxruntime-gpu", "onnxruntime", "onnx", "onnx-ir", "numpy", "pydantic", "tokenizers"),
    *("torch", "transformers", "tensorrt-cu13", "tensorrt-rtx-cu13"),
)
_LIBRARIES = ("libcu", "libnv", "libonnxruntime", "libtensorrt")


def describe(report: Report) -> None:
    """Name everything, and open a model on the CUDA provider.

    Raises:
        Missing: A driver, a GPU or a library.
    """
    try:
        gpu = place.nvml().gpu
        major, minor = gpu.capability
        _say(report, "GPU", gpu.name)
        _say(report, "memory", f"{gpu.memory / 2**30:.1f} GiB")
        _say(report, "compute capability", f"{major}.{minor}")
        _say(report, "driver", gpu.driver)
        _say(report, "host", str(Machine.this()))
        _say(report, "ONNX Runtime", f"{ort.__version__}, for CUDA {ort.cuda_version}")
        checkpoint = RandomCheckpoint("llama", FAMILIES["llama"])
        path = place.compiled(
            checkpoint, report.directory / "llama", Options("fp16", target="cuda")
        )
        backend = place.open_gpu(path)
    except (DeviceError, ArtifactError) as error:
        raise Missing(str(error)) from error
    backend.warm_up()
    _say(report, "captured graphs", "yes" if backend.captures else "no: capturing failed")
    _say(report, "Python", platform.python_version())
    for package in _PACKAGES:
        try:
            _say(report, package, version(package))
        except PackageNotFoundError:
            _say(report, package, "not installed")
    for library, directory in sorted(_loaded().items()):
        _say(report, library, directory)


def _say(report: Report, what: str, found: str) -> None:
    row: dict[str, Any] = {"what": what, "is": found}
    report.row(**row)


def _loaded() -> dict[str, str]:
    """Return the libraries this process has open, and the directories they came from."""
    found = {}
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        file = Path(line.partition("/")[1] + line.partition("/")[2])
        if file.name.startswith(_LIBRARIES):
            found[file.name] = _short(file.parent)
    return found


def _short(directory: Path) -> str:
    """Return a directory from where packages are installed on, if it is among them."""
    for entry in map(Path, filter(None, sys.path)):
        if directory.is_relative_to(entry) and entry.name in ("site-packages", "dist-packages"):
            return str(directory.relative_to(entry.parent))
    return str(directory)
