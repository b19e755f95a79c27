"""Drawing tokens with the native library, which is called directly: it is no part of a graph."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.drawing import Draw, How
from rbee_runtime.errors import DeviceError
from rbee_runtime.kernels import NoKernels, library

_NUMBERS = len(How._fields)


def native_draw() -> Draw:
    """Return what does as :func:`rbee_runtime.drawing.draw`, in a tenth of its time.

    Raises:
        NoKernels: The native kernels are not to be used here.
    """
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    function = called_directly("rbee_draw", [pointer, size, size, ctypes.c_char_p, pointer])

    def draw(logits: NDArray[np.float32], how: Sequence[How]) -> list[int]:
        rows, vocab = logits.shape
        # The library reads and writes where it is told.
        if not logits.flags.c_contiguous or logits.dtype != np.float32:
            logits = np.ascontiguousarray(logits, np.float32)
        numbers = struct.pack(f"{_NUMBERS * rows}d", *chain.from_iterable(how))
        tokens = (ctypes.c_int64 * rows)()
        function(logits.ctypes.data, rows, vocab, numbers, tokens)
        return list(tokens)

    return draw


def called_directly(name: str, arguments: list[Any], returns: Any = None) -> Callable[..., Any]:
    """Return a function of the library that works on rows of logits.

    Args:
        name: What it is called there.
        arguments: The types of its arguments, of :mod:`ctypes`.
        returns: That of what it returns.

    Raises:
        NoKernels: The native kernels are not to be used here.
    """
    try:
        loaded = ctypes.CDLL(str(library()))
        function, runs_here = getattr(loaded, name), loaded.rbee_can_draw()
    except (OSError, AttributeError, DeviceError) as error:
        raise NoKernels(f"they cannot be loaded: {error}") from error
    if not runs_here:
        raise NoKernels("the processor does not run them")
    function.argtypes, function.restype = arguments, returns
    called: Callable[..., Any] = function
    return called
