"""The safetensors files of a model directory: which ones count, and which tensor is in which."""

from __future__ import annotations

import re
import stat
import struct
from collections.abc import Collection, Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rbee_export.checkpoint.json_file import read_json
from rbee_export.errors import CheckpointError

INDEX = "model.safetensors.index.json"

_LARGEST_HEADER = 16 << 20
"""Bytes. A hundred a tensor; parsed, it takes ten times as much."""

_LENGTH = struct.Struct("<Q")
_PICKLE = re.compile(rb"\x80[\x00-\x05]|PK\x03\x04", re.DOTALL)
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHOWN = 80


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


def read_shards(path: Path) -> dict[str, Path]:
    """Return the file of each tensor in a model directory. Headers are read, weights are not.

    Raises:
        CheckpointError: There are no weights, or they are pickles, damaged, twice there, or
            elsewhere.
    """
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
    require_own(index)
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise CheckpointError(
            f"{index}: weight_map must give a file name for each tensor; download it again"
        )
    for name in named.values():
        if not isinstance(name, str) or name != Path(name).name or "\\" in name:
            raise CheckpointError(
                f"{index}: weight_map names {shown(name)}, which is no file of the directory"
            )
        if not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: weight_map names {shown(name)}; only .safetensors are ever loaded"
            )
    return tuple(sorted(set(named.values())))


def require_own(file: Path) -> None:
    """Refuse what is no file of its directory: a device, a pipe, a link to somewhere else.

    The links of a hub's cache, to its blobs, are as good as files.

    Raises:
        CheckpointError: It is one of these.
    """
    if file.is_symlink():
        target, home = file.resolve(), file.parent.resolve()
        blobs = target.parent
        in_cache = blobs.name == "blobs" and blobs.parent.name.startswith("models--")
        if not in_cache and not target.is_relative_to(home):
            raise CheckpointError(f"{file}: links to a file outside its directory; copy that there")
    if not stat.S_ISREG(file.stat().st_mode):
        raise CheckpointError(f"{file}: not a regular file")


def shown(name: object) -> str:
    """Return a stranger's name in a form that fits a line."""
    return text if len(text := repr(name)) <= _SHOWN else f"{text[:_SHOWN]}…"


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
    if _LARGEST_HEADER < length <= size - _LENGTH.size:
        raise CheckpointError(f"{file}: its header takes {length} bytes, as no model's does")
    try:
        with safe_open(file, framework="np") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split())[: 3 * _SHOWN]
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
