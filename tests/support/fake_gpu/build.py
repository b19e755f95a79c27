"""Builds the stand-in libraries: every function that the provider asks for, most of them empty."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import onnxruntime
import pytest

_PROVIDER = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
_RUNTIME = "libcudart"
_UNVERSIONED = {"cuTensor": "libcuda.so.1", "curand": "libcurand.so.10"}


def build_fake_gpu(directory: Path) -> Path:
    """Compile the libraries into a directory; skip where there is no compiler or no provider."""
    missing = [tool for tool in ("gcc", "readelf") if shutil.which(tool) is None]
    if not _PROVIDER.is_file():
        missing.append(_PROVIDER.name)
    if missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{missing[0]} is missing")
        pytest.skip(f"{missing[0]} is missing")
    own = (Path(__file__).parent / "cudart.c").read_text(encoding="utf-8")
    written = set(re.findall(r"(\w+)\([^;{]*\) *{", own))
    # The others tell it what they are asked for.
    for library, functions in sorted(_wanted().items(), key=lambda one: _RUNTIME not in one[0]):
        lines = [_empty(name) for name in functions if name not in written]
        runtime = []
        if _RUNTIME in library:
            lines.append("int cudaDeviceGetPCIBusId(char *t, int n, int d) { return 0; }")
            lines.append(own)
        elif "cublas" in library:
            runtime = [f"-L{directory}", f"-l:{_runtime(directory)}"]
        source, script = directory / "fake.c", directory / "fake.map"
        source.write_text("\n".join(lines), encoding="utf-8")
        script.write_text(f"{library} {{ global: *; }};", encoding="utf-8")
        named = [f"-Wl,-soname,{library}", f"-Wl,--version-script={script}"]
        compiler = ["gcc", "-shared", "-fPIC", "-w", *named, "-o", str(directory / library)]
        subprocess.run([*compiler, str(source), *runtime], check=True)
    return directory


def _empty(function: str) -> str:
    """Return a function that does nothing; what multiplies matrices leaves a note."""
    note = f'fake_note("{function}"); ' if re.match(r"cublas.*([Gg]emm|Matmul)", function) else ""
    return f"int {function}(void) {{ {note}return 0; }}"


def _runtime(directory: Path) -> str:
    return next(directory.glob(f"{_RUNTIME}.so.*")).name


def _wanted() -> dict[str, list[str]]:
    """Return the functions that the provider takes from each of CUDA's libraries."""
    command = ["readelf", "-W", "--dyn-syms", str(_PROVIDER)]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wanted: defaultdict[str, list[str]] = defaultdict(list)
    for library in _UNVERSIONED.values():
        wanted[library] = []
    for line in table.splitlines():
        match = re.search(r"UND ((?:__cuda|cu)\w+)(?:@(\S+))?", line)
        if match is not None:
            starts = (lib for prefix, lib in _UNVERSIONED.items() if match[1].startswith(prefix))
            library = match[2] or next(starts)
            wanted[library].append(match[1])
    return dict(wanted)
