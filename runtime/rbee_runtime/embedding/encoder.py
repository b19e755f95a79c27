"""An encoder on ONNX Runtime: packs of tokens in, vectors out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rbee_runtime import kernels
from rbee_runtime.backend.opening import choose_device
from rbee_runtime.backend.session import Binding, open_session
from rbee_runtime.device import Device, Staging
from rbee_runtime.embedding.footprint import step_bytes
from rbee_runtime.embedding.packer import Pack, Text
from rbee_runtime.errors import ArtifactError, DeviceError, OutOfMemory
from rbee_runtime.units import human_size

if TYPE_CHECKING:
    from rbee_runtime.artifact import TextArtifact

PACK_TOKENS = 2048
"""Tokens of a pack at most: where attention computes the scores of all pairs, those are many."""

_KEPT = 256
"""Bindings that are kept. What is asked of a search has few lengths, and a binding takes as long to
make as a tenth of its step."""

_INPUTS = {"input_ids": "tensor(int64)", "cu_seqlens": "tensor(int32)"}
_TYPES = "token_types"


class Encoder:
    """Runs the graph of an embedding model or a reranker on the CPU or a GPU.

    Attributes:
        name: ``cpu`` or ``cuda``.
        weight_bytes: Bytes of the weights.
        pack_tokens: Tokens of a pack at most, unless it is of one text.
    """

    def __init__(
        self,
        artifact: TextArtifact,
        session: ort.InferenceSession,
        device: Device,
        *,
        native: bool,
    ) -> None:
        """Take room for a pack.

        Args:
            artifact: The model.
            session: Its graph.
            device: Where that runs.
            native: Whether the native kernels run it.

        Raises:
            ArtifactError: The graph is not what its manifest says.
            OutOfMemory: The device has no room.
        """
        manifest = artifact.manifest
        self.name = device.name
        self.weight_bytes = artifact.weight_bytes
        self.pack_tokens = PACK_TOKENS
        self._session = session
        self._device = device
        self._native = native
        self._manifest = manifest
        self._output, self._dim = manifest.output
        self._check(artifact)
        self._inputs = self._stage(self.pack_tokens)
        self._vectors = device.zeros((self.pack_tokens, self._dim), "float32")
        self._bindings: dict[tuple[int, int], Binding] = {}

    @classmethod
    def open(cls, artifact: TextArtifact, backend: str | None, index: int) -> Encoder:
        """Load an artifact's graph on the backend of this name, or on the best that works here.

        Args:
            artifact: The model.
            backend: ``cpu``, ``cuda`` or ``None``.
            index: Index of the device.

        Raises:
            ArtifactError: The graph cannot be loaded.
            DeviceError: The backend or the device is not to be had here.
            OutOfMemory: The device has no room.
        """
        if backend == "tensorrt":
            raise DeviceError(
                f"{artifact.path}: models that read whole texts run on cpu and cuda, "
                "not on tensorrt"
            )
        device = choose_device(artifact, backend, index)
        manifest = artifact.manifest
        native = device.name == "cpu" and manifest.target == "cpu"
        session = open_session(
            artifact.file("graph"),
            device,
            native=native,
            exact=manifest.precision == "fp32",
            captures=False,
        )
        return cls(artifact, session, device, native=native and kernels.usable())

    def run(self, pack: Pack) -> NDArray[np.float32]:
        """Run a pack.

        Returns:
            The vectors of its texts, ``float32[texts, dim]``, or the scores of its pairs,
            ``float32[pairs, 1]``, which the caller may keep.

        Raises:
            OutOfMemory: The device could not provide what the step needs.
            DeviceLost: It has failed, and no step will run any more.
            InferenceFailed: The provider failed otherwise.
        """
        texts = len(pack.texts)
        inputs = self._inputs
        if pack.tokens > self.pack_tokens:
            self._require_room(pack.tokens)
            inputs = self._stage(pack.tokens)
        host = inputs.host
        host["input_ids"][: pack.tokens] = np.concatenate([text.ids for text in pack.texts])
        if self._manifest.token_types:
            types = [text.types for text in pack.texts if text.types is not None]
            host[_TYPES][: pack.tokens] = np.concatenate(types)
        lengths = [len(text.ids) for text in pack.texts]
        np.cumsum(lengths, dtype=np.int32, out=host["cu_seqlens"][1 : texts + 1])
        self._device.upload(inputs)
        self._bind(inputs, pack.tokens, texts).run(pack.tokens)
        vectors = np.empty((texts, self._dim), np.float32)
        self._device.read(self._vectors[:texts], vectors)
        return vectors

    def warm_up(self) -> None:
        """Run a text of two tokens; see :meth:`run`."""
        zeros = np.zeros(2, np.int32)
        self.run(Pack((Text("", 0, zeros, zeros),), 2))

    def held(self) -> int:
        """Return the bytes of the device's memory that the process holds."""
        return self._device.held()

    def _bind(self, inputs: Staging, tokens: int, texts: int) -> Binding:
        """Return the graph bound to so many tokens of so many texts."""
        sizes = tokens, texts
        if inputs is self._inputs and sizes in self._bindings:
            return self._bindings[sizes]
        binding = Binding(self._session, self._device)
        binding.input("input_ids", inputs.device["input_ids"][:tokens])
        binding.input("cu_seqlens", inputs.device["cu_seqlens"][: texts + 1])
        if self._manifest.token_types:
            binding.input(_TYPES, inputs.device[_TYPES][:tokens])
        binding.output(self._output, self._vectors[:texts])
        if inputs is self._inputs:
            if len(self._bindings) == _KEPT:
                self._bindings.clear()
            self._bindings[sizes] = binding
        return binding

    def _stage(self, tokens: int) -> Staging:
        """Return room for the inputs of a pack of so many tokens, each a text at most."""
        layout: dict[str, tuple[tuple[int], str]] = {
            "input_ids": ((tokens,), "int64"),
            "cu_seqlens": ((tokens + 1,), "int32"),
        }
        if self._manifest.token_types:
            layout[_TYPES] = ((tokens,), "int32")
        return self._device.stage(layout)

    def _require_room(self, tokens: int) -> None:
        """Refuse a long text for which the host has no memory.

        Its system would grant that, and end the process when it is written to; a GPU's says no.
        """
        if self._device.name != "cpu":
            return
        needed = step_bytes(self._manifest, tokens, scores=not self._native)
        left = self._device.available()
        if needed > left:
            raise OutOfMemory(
                f"a text of {tokens} tokens takes some {human_size(needed)}, and "
                f"{human_size(left)} are free: send it in parts"
            )

    def _check(self, artifact: TextArtifact) -> None:
        graph = artifact.file("graph")
        inputs = {value.name: value.type for value in self._session.get_inputs()}
        wanted = _INPUTS | ({_TYPES: "tensor(int32)"} if self._manifest.token_types else {})
        for name, kind in wanted.items():
            if inputs.get(name) != kind:
                raise ArtifactError(f"{graph}: lacks the input {name!r} of {kind}")
        outputs = {value.name: (value.type, value.shape) for value in self._session.get_outputs()}
        kind, shape = outputs.get(self._output, ("", []))
        if kind != "tensor(float)" or shape[1:] != [self._dim]:
            raise ArtifactError(
                f"{graph}: its {self._output} are not float of [texts, {self._dim}]; "
                "export the model again"
            )
