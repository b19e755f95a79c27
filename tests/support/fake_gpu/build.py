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
    for library, functions in _wanted().items():
        lines = [f"int {name}(void) {{ return 0; }}" for name in functions if name not in written]
        if library.startswith("libcudart"):
            lines.append("int cudaDeviceGetPCIBusId(char *t, int n, int d) { return 0; }")
            lines.append(own)
        source, script = directory / "fake.c", directory / "fake.map"
        source.write_text("\n".join(lines), encoding="utf-8")
        script.write_text(f"{library} {{ global: *; }};", encoding="utf-8")
        named = [f"-Wl,-soname,{library}", f"-Wl,--version-script={script}"]
        compiler = ["gcc", "-shared", "-fPIC", "-w", *named, "-o", str(directory / library)]
        subprocess.run([*compiler, str(source)], check=True)
    return directory


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
