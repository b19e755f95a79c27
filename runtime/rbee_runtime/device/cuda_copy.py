"""How the CUDA runtime is told of a copy: its structures."""

from __future__ import annotations

import ctypes
from typing import Self

from rbee_runtime.device.cuda_array import Strip

TO_DEVICE, TO_HOST, WITHIN = 1, 2, 3
"""``cudaMemcpyKind``."""


class _Pitched(ctypes.Structure):
    """``cudaPitchedPtr``."""

    _fields_ = [
        ("ptr", ctypes.c_void_p),
        ("pitch", ctypes.c_size_t),
        ("xsize", ctypes.c_size_t),
        ("ysize", ctypes.c_size_t),
    ]


class _Triple(ctypes.Structure):
    """``cudaPos`` and ``cudaExtent``."""

    _fields_ = [
        ("x", ctypes.c_size_t),
        ("y", ctypes.c_size_t),
        ("z", ctypes.c_size_t),
    ]


class Copy3D(ctypes.Structure):
    """``cudaMemcpy3DParms``."""

    _fields_ = [
        ("srcArray", ctypes.c_void_p),
        ("srcPos", _Triple),
        ("srcPtr", _Pitched),
        ("dstArray", ctypes.c_void_p),
        ("dstPos", _Triple),
        ("dstPtr", _Pitched),
        ("extent", _Triple),
        ("kind", ctypes.c_int),
    ]

    @classmethod
    def of(cls, strip: Strip) -> Self:
        """Return how the runtime is told of a copy within the device."""
        return cls(
            srcPtr=_pitched(strip.source, strip.source_steps, strip),
            dstPtr=_pitched(strip.target, strip.target_steps, strip),
            extent=_Triple(strip.width, strip.rows, strip.slices),
            kind=WITHIN,
        )


def _pitched(address: int, steps: tuple[int, int], strip: Strip) -> _Pitched:
    row, stride = steps
    rows = stride // row if strip.slices > 1 else strip.rows
    return _Pitched(address, row, strip.width, rows)
