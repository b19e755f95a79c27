"""What runs a step: one protocol, one implementation for each way to run a graph."""

from rbee_runtime.backend.backend import Backend
from rbee_runtime.backend.host_cache import CacheType, check_cache_type, host_cache
from rbee_runtime.backend.onnx import OnnxBackend
from rbee_runtime.backend.opening import check_device, open_backend

__all__ = [
    "Backend",
    "CacheType",
    "OnnxBackend",
    "check_cache_type",
    "check_device",
    "host_cache",
    "open_backend",
]
