"""What this machine has of what the checks need: a driver, packages, CUDA's libraries."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from gpu_check.plan import OURS, WHEELS, Check

_DRIVER = "libcuda.so.1"


def missing_gpu() -> str | None:
    """Return what is missing for any use of a GPU, in one line; ``None`` if nothing is."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return (
            f"no NVIDIA driver ({_DRIVER}): it takes a machine with an NVIDIA GPU, and in a "
            "container the option --gpus all"
        )
    code = driver.cuInit(0)
    count = ctypes.c_int()
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code or not count.value:
        return f"the NVIDIA driver finds no usable GPU (error {code} of {_DRIVER})"
    return None


def missing_modules(modules: Iterable[str]) -> list[str]:
    """Return those that cannot be imported, without importing any but the packages above them."""
    return [module for module in modules if not _is_there(module)]


def wheels(modules: Iterable[str]) -> str:
    """Return one line that names modules and the wheels to bring."""
    named = [f"{module} (wheel {WHEELS[module]})" for module in modules]
    return f"not installed: {', '.join(named)}"


def library_directories() -> list[Path]:
    """Return where NVIDIA's wheels have their libraries, in the order of the search path."""
    found = []
    for entry in sys.path:
        for pattern in ("nvidia/*/lib", "tensorrt_libs"):
            found += sorted(Path(entry or ".").resolve().glob(pattern))
    return list(dict.fromkeys(found))


def environment(check: Check) -> Mapping[str, str]:
    """Return the variables of a check's process.

    It imports what this process would. CUDA's libraries may be in wheels beside another ONNX
    Runtime's; torch finds its own.
    """
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if check.needs == OURS:
        known = [variables["LD_LIBRARY_PATH"]] if variables.get("LD_LIBRARY_PATH") else []
        variables["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, library_directories()), *known])
    return variables


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
