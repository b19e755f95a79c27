"""The ``vllm`` program, whose Python opens the engine and the server.

vLLM and what the bench compares with want different versions of the same packages, so that it is
looked for as a program, in an environment of its own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from contextlib import suppress
from ctypes.util import find_library
from pathlib import Path


def interpreter() -> Path:
    """Return the Python of the ``vllm`` that is on the path, or beside the Python that runs this.

    Raises:
        LookupError: There is none; one line says what is missing.
    """
    here = Path(sys.executable).parent
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), str(here)])
    program = shutil.which("vllm", path=places)
    if program is None:
        raise LookupError("no vllm program on the path")
    python = shutil.which(_first_python(Path(program)), path=places)
    if python is None:
        raise LookupError(f"{program} does not say in its first line which Python runs it")
    return Path(python)


def is_elsewhere(python: Path) -> bool:
    """Return whether it is of another environment than the Python that runs this."""
    return python.parent != Path(sys.executable).parent


def variables(python: Path, threads: int) -> dict[str, str]:
    """Return what its processes are to find in their environment, besides what is there.

    Args:
        python: See :func:`interpreter`.
        threads: Threads to compute with; 0 leaves it to vLLM.
    """
    found = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        # On a CPU, 0.32 cannot read what it keeps of a compiled model, and compiles it every time.
        # Without, it finds the compiler's own cache, and the code is the same.
        "VLLM_USE_AOT_COMPILE": "0",
    }
    if is_elsewhere(python):
        found["PYTHONPATH"] = ""  # packages of the environment that runs this
    if threads:
        found["OMP_NUM_THREADS"] = str(threads)
        # On a CPU, it would keep one core of each memory node for its other processes.
        found["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(
            str(core) for core in sorted(os.sched_getaffinity(0))[:threads]
        )
    openmp = python.parent.parent / "lib" / "libiomp5.so"
    if openmp.is_file():
        # What it asks for on a CPU: only what is installed for CPUs brings this library.
        libraries = {"libiomp": str(openmp), "libtcmalloc": find_library("tcmalloc_minimal")}
        before = os.environ.get("LD_PRELOAD", "")
        new = [file for name, file in libraries.items() if file and name not in before]
        found["LD_PRELOAD"] = ":".join(filter(None, [*new, before]))
    return found


def _first_python(program: Path) -> str:
    lines = program.read_bytes()[:1024].decode(errors="replace").splitlines()
    first, second, *_ = *lines, "", ""
    # A path with a blank, or one too long for the kernel, is in the second line, for a shell.
    line = second if first.endswith("/sh") else first
    words: list[str] = []
    with suppress(ValueError):  # quotes that do not close: no line of an installer's
        words = shlex.split(line.removeprefix("#!"))
    return next((word for word in words if Path(word).name.startswith("python")), "")
