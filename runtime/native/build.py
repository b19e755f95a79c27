"""Compiles the native kernels: ``python runtime/native/build.py``, and every installation does."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

HERE = Path(__file__).parent
LIBRARY = HERE.parent / "rbee_runtime" / "kernels" / "librbee_kernels.so"

# The kernels are compiled once for each variant, into a namespace of its own; what runs on the
# matrix unit (AMX) as a part of AVX-512's; all other sources once, for any processor.
_KERNELS = (
    "attention",
    "attention_of_many",
    "byte_attention",
    "cache_rows",
    "convolution",
    "delta_rule",
    "kernels",
    "multiply",
    "rows",
    "stretch",
)
_ON_AVX512 = ("bf16_attention", "bf16_product", "bf16_weights")
_ANY = ""
# Products and sums are fused where the sources say so and nowhere else: variants are to agree.
_FLAGS = ("-std=c++20", "-O3", "-w", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off")
_AVX2 = ("-march=x86-64", "-mavx2", "-mfma", "-mf16c")
_INSTRUCTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        _ANY: ("-march=x86-64",),
        "avx2": _AVX2,
        "avxvnni": (*_AVX2, "-mavxvnni"),
        "avx512": ("-march=x86-64-v4", "-mavx512vnni"),
    }
)
_ZIG_INSTRUCTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        _ANY: ("-mcpu=x86_64",),
        "avx2": ("-mcpu=x86_64+avx2+fma+f16c",),
        "avxvnni": ("-mcpu=x86_64+avx2+fma+f16c+avxvnni",),
        "avx512": ("-mcpu=x86_64_v4+avx512vnni",),
    }
)


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
    command, instructions = _compiler()
    unfinished = LIBRARY.with_suffix(".so.part")
    LIBRARY.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        work = _objects(Path(directory))

        def compile_one(one: _Object) -> None:
            named = (f"-DRBEE_VARIANT={one.variant}",) if one.variant else ()
            flags = [*_FLAGS, *instructions[one.variant], *named]
            _run([*command, *flags, "-c", str(one.source), "-o", str(one.path)])

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            # The longest first.
            done = threads.map(compile_one, reversed(work))
            list(done)
        objects = [str(one.path) for one in work]
        # Zig brings a library of C++'s own functions, and compiles it for this or that processor.
        _run([*command, *instructions[_ANY], "-shared", *objects, "-o", str(unfinished)])
    # A library in use keeps its old contents.
    unfinished.replace(LIBRARY)
    return LIBRARY


@dataclass(frozen=True)
class _Object:
    source: Path
    variant: str
    path: Path


def _objects(directory: Path) -> list[_Object]:
    """Return what is to be compiled, in the order of linking.

    Of a function that several objects hold, one of C++'s own library, a linker keeps the first:
    what runs on more processors comes first.
    """
    sources = sorted(HERE.glob("*.cpp"))
    return [
        _Object(source, variant, directory / f"{source.stem}.{variant}.o")
        for variant in _INSTRUCTIONS
        for source in sources
        if variant in _variants_of(source.stem)
    ]


def _variants_of(source: str) -> tuple[str, ...]:
    if source in _KERNELS:
        return tuple(variant for variant in _INSTRUCTIONS if variant)
    return ("avx512",) if source in _ON_AVX512 else (_ANY,)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotBuild(f"the native kernels cannot be compiled: {error}") from error
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        why = errors[0] if errors else f"{command[0]} failed"
        raise CannotBuild(f"the native kernels cannot be compiled: {why}")


def _compiler() -> tuple[list[str], Mapping[str, tuple[str, ...]]]:
    chosen = os.environ.get("CXX")
    if chosen:
        return chosen.split(), _INSTRUCTIONS
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name], _INSTRUCTIONS
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"], _ZIG_INSTRUCTIONS
    raise CannotBuild(
        "the native kernels need a C++ compiler: install g++, clang++ or the Python package "
        "ziglang, then install again"
    )


if __name__ == "__main__":
    try:
        print(build())
    except CannotBuild as error:
        sys.exit(str(error))
