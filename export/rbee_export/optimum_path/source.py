"""The directory to export, looked over before anything heavy is started."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from safetensors import safe_open

from rbee_export.checkpoint.json_file import read_json
from rbee_export.checkpoint.model_directory import read_shards
from rbee_export.errors import CheckpointError, ExportError


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint in transformers' format.

    Attributes:
        path: The directory.
        model_type: Its architecture, by transformers' name.
        tensors: How many its files hold.
        elements: Of all these together.
    """

    path: Path
    model_type: str
    tensors: int
    elements: int

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a directory's configuration and the headers of its weights.

        Raises:
            CheckpointError: It is missing, incomplete or damaged, or its weights are pickles.
            ExportError: It is no directory but a GGUF file.
        """
        if path.suffix == ".gguf" and path.is_file():
            raise ExportError(
                f"{path}: optimum exports directories in transformers' format, not GGUF files"
            )
        if not path.is_dir():
            raise CheckpointError(f"{path}: no such directory")
        model_type = _model_type(path / "config.json")
        shards = read_shards(path)
        elements = 0
        for file in set(shards.values()):
            with safe_open(file, framework="np") as opened:
                elements += sum(
                    math.prod(opened.get_slice(name).get_shape())
                    for name in opened.keys()  # noqa: SIM118
                )
        return cls(path, model_type, len(shards), elements)


def _model_type(file: Path) -> str:
    model_type = read_json(file).get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise CheckpointError(f"{file}: names no model_type")
    return model_type
