"""What runs a step: one protocol, one implementation for each way to run a graph."""

from rbee_runtime.backend.backend import Backend
from rbee_runtime.backend.onnx import OnnxBackend
from rbee_runtime.backend.opening import check_device, host_cache, open_backend

__all__ = ["Backend", "OnnxBackend", "check_device", "host_cache", "open_backend"]
