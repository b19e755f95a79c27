"""A GGUF file as a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import numpy as np

from rbee_export.checkpoint.checkpoint import TokenizerSource
from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.gguf_granite import VECTORS
from rbee_export.checkpoint.gguf_header import StoredTensor
from rbee_export.checkpoint.gguf_layout import locate, read_config
from rbee_export.checkpoint.gguf_parts import open_parts
from rbee_export.checkpoint.gguf_tensor import DENSE_KINDS, QUANTIZED_KINDS, GgufTensor
from rbee_export.checkpoint.gguf_tokenizer import read_tokenizer
from rbee_export.checkpoint.layout import Stored
from rbee_export.errors import CheckpointError, UnsupportedModel, shown


@dataclass(frozen=True, slots=True)
class GgufCheckpoint:
    """A GGUF model; see :class:`~rbee_export.checkpoint.checkpoint.Checkpoint`.

    Attributes:
        path: The file it was opened by: a whole model, or any part of one.
        files: The file, or all parts in order.
        fields: Metadata by key.
        tensors: Tensors by the file's names for them.
    """

    path: Path
    files: tuple[Path, ...]
    config: DecoderConfig
    fields: Mapping[str, object] = field(repr=False)
    tensors: Mapping[str, StoredTensor] = field(repr=False)
    format: Literal["gguf"] = "gguf"

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the metadata of a file and, if it is a part, of all other parts.

        Weights stay on disk.

        Raises:
            CheckpointError: A file is no GGUF, is cut short, is missing, or contradicts itself.
            UnsupportedModel: Its version, its architecture or one of its tensors' types is not
                known here.
        """
        parts = open_parts(path)
        known = DENSE_KINDS | QUANTIZED_KINDS
        for tensor in parts.tensors.values():
            if tensor.tensor_type not in known:
                raise UnsupportedModel(
                    f"{path}: tensor {shown(tensor.name)} has type {tensor.tensor_type.name}; "
                    f"supported are {', '.join(kind.name for kind in sorted(known))}"
                )
        config = read_config(path, parts.fields, parts.tensors)
        return cls(path, parts.paths, config, parts.fields, parts.tensors)

    @property
    def name(self) -> str:
        """The name of the file, or of the first of its parts."""
        return self.files[0].name

    @property
    def quantized(self) -> bool:
        """Whether any tensor is block-quantised."""
        return any(tensor.tensor_type in QUANTIZED_KINDS for tensor in self.tensors.values())

    def tensor(self, name: str) -> GgufTensor:
        """Return the weight with this canonical name."""
        place = locate(name, self.config, self.tensors)
        stored = self.tensors.get(place.name)
        if stored is None:
            raise CheckpointError(f"{self.path}: tensor {place.name} is missing")
        shape, data = stored.shape[::-1], stored.data
        if place.experts is not None and name.endswith("_bias"):
            if len(shape) != 2 or shape[0] != place.experts:
                raise CheckpointError(
                    f"{self.path}: tensor {place.name} does not hold the biases of "
                    f"{place.experts} experts"
                )
            shape, data = (shape[0] * shape[1],), data.reshape(-1)
        elif place.experts is not None:
            place.check_stack(self.path, shape)
            if place.rows is not None:
                data = data[:, place.rows]
            rows = data.shape[0] * data.shape[1]
            shape, data = (rows, shape[2]), data.reshape(rows, -1)
        elif place.group is not None:
            return self._of_heads(place, stored)
        elif place.rows is not None:
            whole = range(*place.rows.indices(shape[0]))
            shape, data = (len(whole), *shape[1:]), data[place.rows]
        if name.endswith(".shared_router") and len(shape) == 1:
            shape = (1, *shape)  # some converters write it as a vector
        if name.endswith((".delta_conv", ".conv_filters", ".mamba_conv")) and len(shape) == 2:
            shape = (shape[0], 1, shape[1])
        if name.endswith(VECTORS) and len(shape) == 2 and 1 in shape:
            shape, data = (shape[0] * shape[1],), data.reshape(-1)
        order = place.order
        if order is not None and len(order) != shape[0]:
            order = None  # its shape contradicts the configuration, which will be found out
        if order is not None and len(shape) == 1:  # a bias: its elements are what has an order
            data, order = data.reshape(shape[0], -1)[order].reshape(-1), None
        return GgufTensor(shape, stored.tensor_type, data, order)

    def _of_heads(self, place: Stored, stored: StoredTensor) -> GgufTensor:
        """Return the rows of a weight in each part of a tensor that it shares."""
        shape, group, rows = stored.shape[::-1], place.group or 1, place.rows or slice(None)
        if len(shape) != 2 or shape[0] % group:
            raise CheckpointError(
                f"{self.path}: tensor {place.name} does not fall into heads of {group} rows"
            )
        firsts = np.arange(0, shape[0], group)[:, None]
        order = (firsts + np.arange(*rows.indices(group))).reshape(-1)
        return GgufTensor((len(order), shape[1]), stored.tensor_type, stored.data, order)

    def tokenizer(self) -> TokenizerSource:
        """Return the tokenizer embedded in the metadata."""
        try:
            return read_tokenizer(self.fields)
        except (CheckpointError, UnsupportedModel) as error:
            raise type(error)(f"{self.path}: {error}") from error
