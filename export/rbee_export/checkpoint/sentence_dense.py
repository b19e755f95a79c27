"""A dense layer of sentence-transformers: a folder with its settings and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from rbee_export.checkpoint.json_file import read_json
from rbee_export.checkpoint.model_directory import read_shards
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.checkpoint.pooling import Dense, VectorActivation
from rbee_export.errors import CheckpointError, UnsupportedModel, shown

_ACTIVATIONS: Mapping[str, VectorActivation] = MappingProxyType(
    {"Identity": "identity", "Tanh": "tanh"}
)
_WIDEST = 1 << 20
_OF_TEXTS = "sentence_embedding"


def read_dense(folder: Path) -> Dense:
    """Read a layer's settings.

    Raises:
        CheckpointError: They are missing or damaged.
        UnsupportedModel: It does what is not known here.
    """
    file = folder / "config.json"
    settings = read_json(file)
    act = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    kind = act.rpartition(".")[2] if isinstance(act, str) else ""
    if kind not in _ACTIVATIONS:
        raise UnsupportedModel(
            f"{file}: activation_function {shown(act)} is not supported; "
            f"{' and '.join(_ACTIVATIONS)} are"
        )
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, _OF_TEXTS):
            raise UnsupportedModel(f"{file}: {key} {shown(settings[key])} is not supported")
    number = Numbers(str(file), settings)
    bias = settings.get("bias", True)
    if not isinstance(bias, bool):
        raise CheckpointError(f"{file}: bias {shown(bias)} is neither true nor false")
    return Dense(
        folder=folder,
        inputs=number.count("in_features", _WIDEST),
        outputs=number.count("out_features", _WIDEST),
        bias=bias,
        activation=_ACTIVATIONS[kind],
    )


def dense_files(layer: Dense) -> tuple[Path, ...]:
    """Return the files of a layer, settings first.

    Raises:
        CheckpointError: There are no weights, or they are pickles or damaged.
    """
    return (layer.folder / "config.json", *sorted(set(read_shards(layer.folder).values())))
