"""What runs a step: one protocol, one implementation for each way to run a graph."""

from rbee_runtime.backend.backend import Backend
from rbee_runtime.backend.dynamic import DynamicBackend
from rbee_runtime.backend.onnx import OnnxBackend
from rbee_runtime.backend.opening import open_backend
from rbee_runtime.backend.tensorrt import TensorRtBackend

__all__ = ["Backend", "DynamicBackend", "OnnxBackend", "TensorRtBackend", "open_backend"]
