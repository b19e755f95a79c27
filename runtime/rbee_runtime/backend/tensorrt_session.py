"""ONNX Runtime under a graph of the standard dialect: its TensorRT provider, or its CUDA one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnxruntime as ort

from rbee_runtime.artifact import Manifest
from rbee_runtime.backend.session import GRAPH_OFF, Binding
from rbee_runtime.backend.tensorrt_tensors import Tensor, tensors
from rbee_runtime.device import Array, CudaDevice


class StandardSession:
    """A session as an executor of :class:`~rbee_runtime.backend.tensorrt.TensorRtBackend`.

    Attributes:
        name: ``tensorrt`` or ``cuda``.
        most_tokens: Tokens of a prompt in one step at most.
        weight_bytes: Bytes of its weights.
    """

    def __init__(
        self,
        name: str,
        session: ort.InferenceSession,
        manifest: Manifest,
        device: CudaDevice,
        *,
        most_tokens: int,
        weight_bytes: int,
    ) -> None:
        """Take a session.

        Args:
            name: ``tensorrt`` or ``cuda``, whose provider it has.
            session: The session.
            manifest: The artifact's.
            device: The GPU it is on.
            most_tokens: Tokens of a prompt that it takes in one step.
            weight_bytes: Bytes of its weights.
        """
        self.name = name
        self.most_tokens = most_tokens
        self.weight_bytes = weight_bytes
        self._session = session
        self._device = device
        self._captures = name == "cuda"
        # The capacity is only the cache's concern here.
        self._tensors = list(tensors(manifest, 1))

    def bind(self, arrays: Mapping[str, Array], rows: int | None = None) -> Binding:
        """Return a binding of all arrays.

        Only the CUDA provider captures graphs: TensorRT's has one context for all sizes, and a
        graph is good only for as long as its context stays as it was.
        """
        graph = rows if self._captures and rows else GRAPH_OFF
        binding = Binding(self._session, self._device, graph)
        for tensor in self._tensors:
            bind = binding.input if tensor.is_input else binding.output
            bind(tensor.name, arrays[tensor.name])
        return binding

    def forgo_captures(self) -> None:
        """See :class:`~rbee_runtime.backend.tensorrt.Executor`."""
        self._captures = False


def model_options(manifest: Manifest, capacity: int, rows: int, tokens: int) -> Mapping[str, str]:
    """Return what TensorRT's provider is to build an engine for, as its options.

    Args:
        manifest: The artifact's.
        capacity: Positions of each slot.
        rows: Rows of a step at most.
        tokens: Tokens of a row at most.
    """
    inputs = [tensor for tensor in tensors(manifest, capacity) if tensor.is_input]
    sizes = {"min": (1, 1), "opt": (rows, 1), "max": (rows, tokens)}
    shapes = {
        f"trt_profile_{which}_shapes": ",".join(_told(inputs, *step))
        for which, step in sizes.items()
    }
    # Types that occur in a graph have to be allowed.
    allowed = {
        "fp16": manifest.cache.dtype == "float16",
        "bf16": manifest.cache.dtype == "bfloat16",
        "int8": any(group.held.startswith("8-bit") for group in manifest.weights),
    }
    return shapes | {f"trt_{kind}_enable": "01"[on] for kind, on in allowed.items()}


def _told(inputs: list[Tensor], batch: int, sequence: int) -> Iterator[str]:
    for tensor in inputs:
        yield f"{tensor.name}:{'x'.join(map(str, tensor.sizes(batch, sequence)))}"
