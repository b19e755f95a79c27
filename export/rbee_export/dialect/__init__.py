"""How the model definition becomes ONNX."""

from rbee_export.dialect.ort import OrtDialect

__all__ = ["OrtDialect"]
