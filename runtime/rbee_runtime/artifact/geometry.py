"""The shape of what a cache holds, as a manifest tells it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import NonNegativeInt, PositiveInt, field_validator, model_validator

from rbee_runtime.artifact.parts import Sparse
from rbee_runtime.transfer import BLOCK

_PANEL, _PANEL_ROWS = 32, 17


class StateGeometry(Sparse):
    """Shape of what some layers keep of a sequence instead of keys and values, however long it is.

    Per layer, ``float32[slots, taps - 1, channels]`` and, of layers that have more than a
    convolution, ``float32[slots, heads, key_dim, value_dim]``.

    Attributes:
        layers: Those layers.
        channels: Width of what the layer convolves.
        taps: Tokens that the convolution sees.
        heads: Heads with a state each; zero, as the next two, where there is no such state.
        key_dim: Width of what is looked up in a state.
        value_dim: Width of what is read.
    """

    layers: tuple[NonNegativeInt, ...]
    channels: PositiveInt
    taps: PositiveInt
    heads: NonNegativeInt = 0
    key_dim: NonNegativeInt = 0
    value_dim: NonNegativeInt = 0

    OPTIONAL: ClassVar = ("heads", "key_dim", "value_dim")

    @model_validator(mode="after")
    def _heads_have_widths(self) -> Self:
        if len({size > 0 for size in (self.heads, self.key_dim, self.value_dim)}) > 1:
            raise ValueError("heads, key_dim and value_dim come together")
        return self

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of what a layer keeps of a slot, by the names of a graph's inputs."""
        convolved = {"conv": (self.taps - 1, self.channels)}
        if not self.heads:
            return convolved
        return {**convolved, "state": (self.heads, self.key_dim, self.value_dim)}

    @property
    def nbytes(self) -> int:
        """Bytes of a slot's, of all layers together."""
        return 4 * len(self.layers) * sum(math.prod(shape) for shape in self.shapes.values())


class CacheGeometry(Sparse):
    """Shape of the KV cache: per layer, key and value of ``[slots, kv_heads, capacity, head_dim]``.

    Attributes:
        layers: The model's layers.
        kv_heads: Key and value heads.
        head_dim: Width of one head.
        dtype: Element type of the graph's cache; or ``int8``, which no manifest says, where the
            native kernels keep in 8 bits what to the graph is ``float16``.
        window: Positions that the layers below attend to, their own included; the largest.
        windowed_layers: Layers that attend to no more, and have inputs of their own for where
            their cache begins.
        state: What other layers keep in the place of keys and values.
    """

    layers: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    dtype: Literal["float32", "float16", "bfloat16", "int8"]
    window: PositiveInt | None = None
    windowed_layers: tuple[NonNegativeInt, ...] = ()
    state: StateGeometry | None = None

    OPTIONAL: ClassVar = ("state",)

    @field_validator("dtype")
    @classmethod
    def _a_graph_has_no_bytes(cls, dtype: str) -> str:
        if dtype == "int8":
            raise ValueError("no graph has a cache of 8 bits")
        return dtype

    @model_validator(mode="after")
    def _states_belong_to_layers(self) -> Self:
        if self.state is None:
            return self
        if self.windowed_layers:
            raise ValueError("windowed_layers and state do not go together")
        layers = set(self.state.layers)
        if not 0 < len(layers) == len(self.state.layers) < self.layers:
            raise ValueError("state.layers is not some of the layers")
        if max(layers) >= self.layers:
            raise ValueError("state.layers names a layer that is not there")
        return self

    @model_validator(mode="after")
    def _windows_belong_to_layers(self) -> Self:
        if (self.window is None) != (not self.windowed_layers):
            raise ValueError("window and windowed_layers come together")
        if any(layer >= self.layers for layer in self.windowed_layers):
            raise ValueError("windowed_layers names a layer that is not there")
        return self

    @property
    def element(self) -> Literal["float32", "float16", "bfloat16"]:
        """Element type of the cache as the graph has it."""
        return "float16" if self.dtype == "int8" else self.dtype

    def rows(self, positions: int) -> int:
        """Return how many rows of ``head_dim`` elements some positions of a head take.

        In 8 bits 32 positions stand together, 17 rows of 16 bits: an integer for each number, and a
        scale for every 32 numbers of a position (``runtime/native/byte_panels.h``).
        """
        return -(-positions // _PANEL) * _PANEL_ROWS if self.dtype == "int8" else positions

    @property
    def together(self) -> int:
        """Positions that stand together, and cannot be moved apart."""
        return _PANEL if self.dtype == "int8" else 1

    @property
    def whole_layers(self) -> tuple[int, ...]:
        """Layers that keep every position."""
        others = {*self.windowed_layers, *(self.state.layers if self.state else ())}
        return tuple(layer for layer in range(self.layers) if layer not in others)

    @property
    def bytes_per_token(self) -> int:
        """Bytes one position of one slot takes, keys and values of every layer together."""
        return self.block_bytes(BLOCK) // BLOCK

    @property
    def state_bytes(self) -> int:
        """Bytes a slot takes besides, whatever it holds."""
        return self.state.nbytes if self.state else 0

    def window_capacity(self, capacity: int, chunk: int) -> int:
        """Return the positions that layers with a window keep of a slot.

        Besides the window they keep a block, for others that begin alike, and take a whole step.

        Args:
            capacity: Positions of the slot.
            chunk: Tokens of a step at most.
        """
        return min(capacity, (self.window or 0) + 2 * BLOCK + max(chunk, BLOCK))

    def slot_bytes(self, capacity: int, chunk: int) -> int:
        """Return the bytes of a slot; see :meth:`window_capacity`."""
        windowed = len(self.windowed_layers) * self.rows(self.window_capacity(capacity, chunk))
        rows = len(self.whole_layers) * self.rows(capacity) + windowed
        return rows * self._row_bytes + self.state_bytes

    def block_bytes(self, positions: int) -> int:
        """Return the bytes of some positions of every layer."""
        without = len(self.state.layers) if self.state else 0
        return (self.layers - without) * self.rows(positions) * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        element = 4 if self.element == "float32" else 2
        return 2 * self.kv_heads * self.head_dim * element
