"""Does TensorRT compute what the CPU does?"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from gpu_check import place
from gpu_check.child import Report, Skipped
from gpu_check.families import FAMILIES
from gpu_check.parity import CLOSE, beside
from gpu_check.random_weights import RandomCheckpoint
from rbee_export import ExportError, Options, UnsupportedModel
from rbee_export.options import TensorRtTarget

_LIBRARIES = ("tensorrt", "tensorrt_rtx")


def compare(report: Report) -> None:
    """Compare every family that engines can be built of with the CPU, at ``fp16``."""
    if not any(importlib.util.find_spec(name) for name in _LIBRARIES):
        raise Skipped(f"neither {' nor '.join(_LIBRARIES)} is installed")
    if importlib.util.find_spec("rbee_runtime.backend.tensorrt") is None:
        raise Skipped("this version has no backend for it")
    for name in FAMILIES:
        try:
            report.row(family=name, **_of_family(name, report.directory))
        except UnsupportedModel as error:
            report.row(family=name, error=f"not for TensorRT: {error}")
        except ExportError as error:
            # The same for all of them: no builder for this GPU.
            raise Skipped(str(error)) from error
        except Exception as error:  # the other families go on
            report.row(family=name, error=" ".join(str(error).split())[:300], holds=False)


def _of_family(name: str, directory: Path) -> dict[str, Any]:
    checkpoint = RandomCheckpoint(name, FAMILIES[name])
    target = TensorRtTarget((), max_batch=4, max_len=400)
    engine = place.compiled(checkpoint, directory / f"{name}-engine", Options("fp16", None, target))
    plain = place.compiled(checkpoint, directory / name, Options("fp16", target="cuda"))
    backend = place.open_alike(engine, "tensorrt")
    backend.warm_up()
    return beside(backend, place.open_alike(plain, "cpu"), CLOSE["fp16"])
