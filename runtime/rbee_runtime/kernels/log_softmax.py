"""Log probabilities by the native library, which is called directly: it is no part of a graph."""

from __future__ import annotations

import ctypes
import math

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.kernels.drawing import called_directly
from rbee_runtime.log_softmax import LogSoftmax, Measure


def native_log_softmax() -> Measure:
    """Return what does as :func:`rbee_runtime.log_softmax.log_softmax`, in a fraction of its time.

    Raises:
        NoKernels: The native kernels are not to be used here.
    """
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    function = called_directly(
        "rbee_log_softmax", [pointer, size, size, pointer, pointer], ctypes.c_double
    )

    def log_softmax(logits: NDArray[np.float32], top: int) -> LogSoftmax:
        # The library reads where it is told.
        if not logits.flags.c_contiguous or logits.dtype != np.float32:
            logits = np.ascontiguousarray(logits, np.float32)
        if not 0 <= top <= logits.size:
            raise IndexError(f"{logits.size} logits have no {top} likeliest")
        likeliest, values = (ctypes.c_int64 * top)(), (ctypes.c_double * top)()
        whole: float = function(logits.ctypes.data, logits.size, top, likeliest, values)
        if math.isnan(whole):
            return LogSoftmax(whole, [], [])
        return LogSoftmax(whole, list(likeliest), list(values))

    return log_softmax
