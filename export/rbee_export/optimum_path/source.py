"""The directory to export, looked over before anything heavy is started."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from safetensors import SafetensorError, safe_open

from rbee_export.checkpoint.json_file import read_json
from rbee_export.errors import CheckpointError, ExportError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


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
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise _nothing_to_load(path)
        tensors = elements = 0
        for file in files:
            try:
                with safe_open(file, framework="np") as opened:
                    names = list(opened.keys())
                    shapes = [opened.get_slice(name).get_shape() for name in names]
                tensors += len(names)
                elements += sum(map(math.prod, shapes))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{file}: not a whole safetensors file ({error}); download it again"
                ) from error
        return cls(path, model_type, tensors, elements)


def _model_type(file: Path) -> str:
    model_type = read_json(file).get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise CheckpointError(f"{file}: names no model_type")
    return model_type


def _nothing_to_load(path: Path) -> CheckpointError:
    for pattern in _PICKLES:
        if pickle := next(path.glob(pattern), None):
            return CheckpointError(
                f"{path}: its weights are in {pickle.name}, a pickle, which can run code and "
                "is never loaded; save them as safetensors"
            )
    return CheckpointError(f"{path}: no *.safetensors file in the directory")
