"""The native kernels: a library of operators that take the place of ONNX Runtime's own.

It is compiled when the package is installed, from ``runtime/native``, and holds the kernels once
for each set of instructions that it can put to use: its *variants*. The library takes the fastest
that the processor runs, or the one that ``RBEE_KERNELS`` names. Where the library is missing, where
the processor runs no variant, or where ``RBEE_KERNELS=onnxruntime`` asks for it, sessions run on
the kernels that ONNX Runtime brings: the same graph, the same answers but for the order of sums,
more slowly.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import numpy as np

from rbee_runtime.errors import DeviceError

_LIBRARY = Path(__file__).with_name("librbee_kernels.so")
_CHOICE = "RBEE_KERNELS"
_PROCESSOR = Path("/proc/cpuinfo")
_RANGES, _PAGES = Path("/proc/self/maps"), Path("/proc/self/pagemap")
_STATE = np.dtype(np.uint64)
_HELD, _OF_FILE = np.uint64(3 << 62), np.uint64(1 << 61)
"""Of a page's state: it is in memory or swapped out; it is the file's own, not a changed copy."""

_LEAST = frozenset({"avx2", "f16c", "fma"})
_AVX512 = _LEAST | {
    "avx512_vnni",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512f",
    "avx512vl",
    "bmi2",
}
_VARIANTS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "amx": _AVX512 | {"amx_bf16", "amx_tile", "avx512_bf16"},
        "avx512": _AVX512,
        "avxvnni": _LEAST | {"avx_vnni"},
        "avx2": _LEAST,
    }
)
"""What each variant needs, the fastest first."""


def variants() -> tuple[str, ...]:
    """Return the variants that this processor runs, the fastest first."""
    has = _instructions()
    return tuple(name for name, needs in _VARIANTS.items() if needs <= has)


def library() -> Path:
    """Return the library to register with a session's options.

    Raises:
        NoKernels: It is not to be used here; the message says why.
        DeviceError: ``RBEE_KERNELS`` names a variant that is not to be had here, or none at all.
    """
    choice = os.environ.get(_CHOICE, "")
    if choice == "onnxruntime":
        raise NoKernels(f"{_CHOICE}=onnxruntime")
    if choice and choice not in _VARIANTS:
        known = f"{', '.join(reversed(tuple(_VARIANTS)))} or onnxruntime"
        raise DeviceError(f"{_CHOICE}={choice} is not known; use {known}, or leave it out")
    if not _LIBRARY.exists():
        if choice:
            raise DeviceError(
                f"{_CHOICE}={choice}: the kernels are not compiled; install a C++ compiler, then "
                "this package again"
            )
        raise Uncompiled
    missing = (_VARIANTS[choice] if choice else _LEAST) - _instructions()
    if missing:
        why = f"the processor has no {', '.join(sorted(missing))}"
        if choice:
            others = ", ".join([*reversed(variants()), "onnxruntime"])
            raise DeviceError(f"{_CHOICE}={choice}: {why}; what it runs: {others}")
        raise NoKernels(why)
    return _LIBRARY


def usable() -> bool:
    """Return whether sessions are to run on them.

    Raises:
        DeviceError: See :func:`library`.
    """
    try:
        library()
    except NoKernels:
        return False
    return True


@contextmanager
def in_bytes() -> Iterator[None]:
    """Have sessions that register the library in this context keep caches of 16 bits in 8.

    Memory that to the graph is ``float16[slots, kv_heads, rows, head_dim]`` holds 32 positions in
    17 rows (``runtime/native/byte_panels.h``).
    """
    choose = ctypes.CDLL(str(_LIBRARY)).rbee_choose_bytes
    choose(1)
    try:
        yield
    finally:
        choose(0)


@contextmanager
def exactly() -> Iterator[None]:
    """Have sessions that register the library in this context compute in float32 throughout.

    On a processor's matrix unit, attention falls short of that; where weights are rounded anyway,
    that does not matter.
    """
    choose = ctypes.CDLL(str(_LIBRARY)).rbee_choose_exactly
    choose(1)
    try:
        yield
    finally:
        choose(0)


class NoKernels(Exception):
    """The native kernels are not to be used; the message says why."""


class Uncompiled(NoKernels):
    """The library is not there.

    Attributes:
        is_remediable: It could be, on a machine like this.
    """

    def __init__(self) -> None:
        self.is_remediable = sys.platform == "linux" and os.uname().machine == "x86_64"
        remedy = ": install a C++ compiler or ziglang, then this package again"
        super().__init__(f"ours are not compiled{remedy if self.is_remediable else ''}")


class Refused(NoKernels):
    """They cannot run a graph."""


def forget_pages(directory: Path) -> None:
    """Give back memory that only mirrors a directory's files.

    The kernels hold weights in an order of their own. ONNX Runtime keeps the files mapped that they
    were read from; a page that is read again comes from the file again. Where the system does not
    tell of pages, they stay.
    """
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with suppress(OSError):
        for start, size in _mirrored(f"{directory.resolve()}/"):
            libc.madvise(start, size, mmap.MADV_DONTNEED)


def _mirrored(inside: str) -> Iterator[tuple[int, int]]:
    """Yield address and size of what mirrors a file below a path and was never written to."""
    # smaps would tell, too, but only after a look at every page that the process holds.
    with _PAGES.open("rb") as pages:
        for line in _RANGES.read_text(encoding="utf-8").splitlines():
            if inside in line:
                low, high = (int(address, 16) for address in line.split()[0].split("-"))
                pages.seek(low // mmap.PAGESIZE * _STATE.itemsize)
                size = (high - low) // mmap.PAGESIZE * _STATE.itemsize
                states = np.frombuffer(pages.read(size), _STATE)
                if not ((states & _HELD != 0) & (states & _OF_FILE == 0)).any():
                    yield low, high - low


def _instructions() -> frozenset[str]:
    """Return the processor's, by the names that Linux gives them."""
    try:
        lines = _PROCESSOR.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), ":")
    return frozenset(flags.partition(":")[2].split())
