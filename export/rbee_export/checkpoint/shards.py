"""The safetensors files of a model: which ones count."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from rbee_export.checkpoint.json_file import read_json
from rbee_export.errors import CheckpointError

INDEX = "model.safetensors.index.json"

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
