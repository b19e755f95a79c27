"""The files of a model directory: which ones count, and that they are its own."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Collection, Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rbee_export.checkpoint.json_file import read_json
from rbee_export.checkpoint.own_file import LARGEST_SETTINGS, LARGEST_TOKENIZER, require_own
from rbee_export.checkpoint.tokenizer_directory import TOKENIZER_FILES
from rbee_export.errors import CheckpointError, shown
from rbee_runtime.units import human_size

INDEX = "model.safetensors.index.json"

BESIDE = ("config.json", *TOKENIZER_FILES)
"""What is read besides the weights, where it is there."""

_LENGTH = struct.Struct("<Q")
_PICKLE = re.compile(rb"\x80[\x00-\x05]|PK\x03\x04", re.DOTALL)
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def choose_weights(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of a directory's files that hold its weights, or the index that names them.

    A model may lie there twice: as ``model.safetensors`` and, under the names its authors' own
    program has for the tensors, as ``consolidated.safetensors``. None of that is pickles.
    """
    weights = sorted(name for name in names if name.endswith(".safetensors") or name == INDEX)
    for whole in (INDEX, "model.safetensors"):
        if whole in weights:
            return (whole,)
    return tuple(name for name in weights if not name.startswith("consolidated"))


def beside(path: Path) -> tuple[Path, ...]:
    """Return the files besides the weights that are there, config.json first.

    Raises:
        CheckpointError: One is not the directory's own, or far larger than any model's; or it is
            the directory of something else.
    """
    present = [path / name for name in BESIDE if (path / name).exists()]
    if path / "config.json" not in present:
        _refuse_what_needs_none(path)
    for file in present:
        is_tokenizer = file.name in ("tokenizer.json", "tokenizer.model")
        require_own(file, LARGEST_TOKENIZER if is_tokenizer else LARGEST_SETTINGS)
    return tuple(present)


def _refuse_what_needs_none(path: Path) -> None:
    """Refuse what is mistaken for a model and has no config.json."""
    if (path / "artifact.json").exists():
        raise CheckpointError(f"{path}: an artifact already; rbee-generate and rbee-worker run it")
    if (path / "adapter_config.json").exists():
        raise CheckpointError(
            f"{path}: an adapter (LoRA) without its model; merge it into that, save the whole "
            "(merge_and_unload() of peft, then save_pretrained()), and give that directory"
        )
    snapshot = max(path.glob("snapshots/*/config.json"), key=os.path.getmtime, default=None)
    if snapshot is not None:
        raise CheckpointError(f"{path}: a hub's cache of a model; give {snapshot.parent}")


def read_shards(path: Path) -> dict[str, Path]:
    """Return the file of each tensor in a model directory. Headers are read, weights are not.

    Raises:
        CheckpointError: It is no directory; there are no weights, or they are pickles, damaged,
            twice there, or elsewhere.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: no directory with config.json and *.safetensors")
    present = sorted(file.name for file in path.iterdir())
    chosen: Collection[str] = choose_weights(present)
    if not chosen:
        raise _nothing_to_load(path, present)
    if INDEX in chosen:
        chosen = named_shards(path / INDEX)
    shards: dict[str, Path] = {}
    for name in chosen:
        file = path / name
        if not file.exists():
            raise CheckpointError(f"{file}: missing, but named by {INDEX}; download it again")
        require_own(file)
        for tensor in _read_names(file):
            if tensor in shards:
                raise CheckpointError(
                    f"{file}: tensor {shown(tensor)} is in {shards[tensor].name} as well"
                )
            shards[tensor] = file
    return shards


def named_shards(index: Path) -> tuple[str, ...]:
    """Return the names of the files that an index of weights names, all of its own directory.

    Raises:
        CheckpointError: It is no index, or names something else.
    """
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise CheckpointError(
            f"{index}: weight_map must give a file name for each tensor; download it again"
        )
    for name in named.values():
        if not isinstance(name, str) or not _is_file_name(name):
            raise CheckpointError(
                f"{index}: weight_map names {shown(name)}, which is no file of the directory"
            )
        if not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: weight_map names {shown(name)}; only .safetensors are ever loaded"
            )
    return tuple(sorted(set(named.values())))


def _is_file_name(name: str) -> bool:
    return name == Path(name).name and "\\" not in name and name.isprintable() and len(name) < 256


def _read_names(file: Path) -> list[str]:
    """Return the names of a file's tensors, whose places the library checks."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(_LENGTH.size)
    length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else size
    if length > size - _LENGTH.size and _PICKLE.match(start):
        raise CheckpointError(
            f"{file}: a pickle, which can run code and is never loaded; convert it to safetensors"
        )
    if LARGEST_SETTINGS < length <= size - _LENGTH.size:
        raise CheckpointError(f"{file}: its header takes {human_size(length)}, as no model's does")
    try:
        with safe_open(file, framework="np") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split())[:240]
        raise CheckpointError(
            f"{file}: not a whole safetensors file ({said}); download it again"
        ) from error


def _nothing_to_load(path: Path, present: Collection[str]) -> CheckpointError:
    for name in present:
        if name.endswith(_PICKLE_SUFFIXES):
            return CheckpointError(
                f"{path}: its weights are in {shown(name)}, a pickle, which can run code and is "
                "never loaded; convert it to safetensors"
            )
    if any(name.startswith("consolidated") for name in present):
        return CheckpointError(
            f"{path}: holds its weights as consolidated.safetensors only; get those in "
            "model.safetensors"
        )
    return CheckpointError(f"{path}: no *.safetensors file in the directory")
