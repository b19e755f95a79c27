"""A directory of safetensors, as model hubs lay it out, as a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import ml_dtypes
import numpy as np
import tokenizers
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from rbee_export.checkpoint.checkpoint import TokenizerSource
from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.hf_layout import locate, read_config
from rbee_export.checkpoint.layout import Stored
from rbee_export.errors import CheckpointError, UnsupportedModel

_BESIDE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
_KINDS = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class DenseTensor:
    """A weight in a floating-point type; see :class:`~rbee_export.checkpoint.tensor.Tensor`.

    Attributes:
        shape: Outputs first.
        kind: ``F32``, ``F16`` or ``BF16``.
        read: Reads it as ``float32`` of :attr:`shape`.
    """

    shape: tuple[int, ...]
    kind: str
    read: Callable[[], NDArray[np.float32]] = field(repr=False)

    def dense(self) -> NDArray[np.float32]:
        """Return the values as ``float32`` of :attr:`shape`."""
        return self.read()

    def blocks(self) -> None:
        """Return ``None``: nothing here is quantised."""


@dataclass(frozen=True, slots=True)
class SafetensorsCheckpoint:
    """A safetensors directory; see :class:`~rbee_export.checkpoint.checkpoint.Checkpoint`."""

    path: Path
    config: DecoderConfig
    shards: Mapping[str, Path] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    format: Literal["safetensors"] = "safetensors"
    quantized: Literal[False] = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the directory's configuration and its files' headers; weights stay on disk.

        Raises:
            CheckpointError: A file is missing or damaged.
            UnsupportedModel: The architecture is not known here.
        """
        settings = _read_json(path / "config.json")
        config = read_config(path / "config.json", settings)
        return cls(path, config, _shards(path), settings)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.resolve().name

    @property
    def files(self) -> tuple[Path, ...]:
        """Weights, configuration and tokenizer."""
        return model_files(self.path, self.shards)

    def tensor(self, name: str) -> DenseTensor:
        """Return the weight with this canonical name."""
        place = locate(name, self.config, self.shards)
        if place.name not in self.shards:
            raise CheckpointError(f"{self.path}: tensor {place.name} is missing")
        shard = self.shards[place.name]
        with safe_open(shard, framework="np") as file:
            view = file.get_slice(place.name)
            shape, kind = tuple(view.get_shape()), view.get_dtype()
        if kind not in _KINDS:
            raise UnsupportedModel(
                f"{shard}: tensor {place.name} has type {kind}; supported are {', '.join(_KINDS)}"
            )
        if place.rows is not None and shape:
            shape = (len(range(*place.rows.indices(shape[0]))), *shape[1:])
        return DenseTensor(shape, kind, lambda: _read(shard, place, kind))

    def tokenizer(self) -> TokenizerSource:
        """Return the tokenizer beside the weights."""
        file = self.path / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(
                f"{file}: missing; save the model's fast tokenizer into the directory"
            )
        try:
            text = file.read_text(encoding="utf-8")
            tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{file}: not a tokenizer ({error}); save it again") from error
        options = _read_json(self.path / "tokenizer_config.json", required=False)
        generation = _read_json(self.path / "generation_config.json", required=False)
        eos = generation.get("eos_token_id", self.settings.get("eos_token_id"))
        ends = [] if eos is None else eos if isinstance(eos, list) else [eos]
        if not all(type(end) is int for end in ends):
            raise CheckpointError(f"{self.path}: eos_token_id is neither an id nor a list of ids")
        bos = self.settings.get("bos_token_id")
        return TokenizerSource(
            tokenizer_json=text,
            bos_token_id=bos if isinstance(bos, int) else None,
            eos_token_ids=tuple(ends),
            chat_template=self._chat_template(options),
        )

    def _chat_template(self, options: Mapping[str, Any]) -> str | None:
        file = self.path / "chat_template.jinja"
        if file.is_file():
            return _read_text(file)
        template = options.get("chat_template")
        if isinstance(template, list):  # several named ones
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None


def model_files(path: Path, shards: Mapping[str, Path] | None = None) -> tuple[Path, ...]:
    """Return the files of a model directory that make up the model.

    Args:
        path: The directory.
        shards: Its weights' files by tensor, where they are known.

    Raises:
        CheckpointError: There are no weights, or they are damaged.
    """
    weights = sorted(set((shards or _shards(path)).values()))
    return (*weights, *(path / name for name in _BESIDE if (path / name).is_file()))


def _read(shard: Path, place: Stored, kind: str) -> NDArray[np.float32]:
    with safe_open(shard, framework="np") as file:
        view = file.get_slice(place.name)
        values = view[:] if place.rows is None else view[place.rows]
    if kind == "BF16" and values.dtype != ml_dtypes.bfloat16:
        values = values.view(ml_dtypes.bfloat16)
    weights: NDArray[np.float32] = np.asarray(values).astype(np.float32, copy=False)
    return weights + np.float32(place.add) if place.add else weights


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except ValueError as error:
        raise CheckpointError(f"{file}: not UTF-8 text ({error})") from error


def _read_json(file: Path, *, required: bool = True) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise CheckpointError(f"{file}: missing; is this a model directory?") from None
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return content


def _shards(path: Path) -> dict[str, Path]:
    """Map every tensor's stored name to the file that holds it."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        named = _read_json(index).get("weight_map")
        if not isinstance(named, dict) or not all(map(_is_file_name, named.values())):
            raise CheckpointError(
                f"{index}: weight_map must give a file name for each tensor; download it again"
            )
        files = sorted({path / name for name in named.values()})
    else:
        files = sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{path}: no *.safetensors file in the directory")
    shards: dict[str, Path] = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: missing, but named by {index.name}; download it again")
        try:
            with safe_open(file, framework="np") as opened:
                shards.update(dict.fromkeys(opened.keys(), file))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file}: not a whole safetensors file ({error}); download it again"
            ) from error
    return shards


def _is_file_name(name: object) -> bool:
    """Return whether this names a file of the same directory."""
    return isinstance(name, str) and name == Path(name).name
