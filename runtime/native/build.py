"""Compiles the native kernels: ``python runtime/native/build.py``, and every installation does."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = HERE.parent / "rbee_runtime" / "kernels" / "librbee_kernels.so"

_FLAGS = ("-std=c++20", "-O3", "-w", "-fPIC", "-shared", "-fvisibility=hidden")
_INSTRUCTIONS = ("-march=x86-64-v4", "-mavx512vnni")


class CannotBuild(Exception):
    """There are no kernels for this machine, or nothing to compile them with."""


def build() -> Path:
    """Compile the library into the package.

    Returns:
        The library's path.

    Raises:
        CannotBuild: One line says why not; ONNX Runtime's own kernels are used then.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise CannotBuild("the native kernels are for Linux on x86-64")
    unfinished = LIBRARY.with_suffix(".so.part")
    LIBRARY.parent.mkdir(exist_ok=True)
    command = [*_compiler(), *_FLAGS, "-o", str(unfinished), *map(str, sorted(HERE.glob("*.cpp")))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotBuild(f"the native kernels cannot be compiled: {error}") from error
    if done.returncode != 0:
        unfinished.unlink(missing_ok=True)
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        why = errors[0] if errors else f"{command[0]} failed"
        raise CannotBuild(f"the native kernels cannot be compiled: {why}")
    # A library in use keeps its old contents.
    unfinished.replace(LIBRARY)
    return LIBRARY


def _compiler() -> list[str]:
    chosen = os.environ.get("CXX")
    if chosen:
        return [*chosen.split(), *_INSTRUCTIONS]
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name, *_INSTRUCTIONS]
    if importlib.util.find_spec("ziglang"):
        # It has names of its own for processors.
        return [sys.executable, "-m", "ziglang", "c++", "-mcpu=x86_64_v4+avx512vnni"]
    raise CannotBuild(
        "the native kernels need a C++ compiler: install g++, clang++ or the Python package "
        "ziglang, then install again"
    )


if __name__ == "__main__":
    try:
        print(build())
    except CannotBuild as error:
        sys.exit(str(error))
