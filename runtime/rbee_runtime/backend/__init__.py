"""What runs a step: one protocol, one implementation for each way to run a graph."""

from rbee_runtime.backend.backend import Backend, open_backend
from rbee_runtime.backend.onnx import OnnxBackend

__all__ = ["Backend", "OnnxBackend", "open_backend"]
