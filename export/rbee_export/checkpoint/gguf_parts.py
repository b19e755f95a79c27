"""A GGUF model in one file, or in the parts that llama.cpp's ``gguf-split`` cuts it into."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rbee_export.checkpoint.gguf_header import GgufHeader, StoredTensor, read_header
from rbee_export.errors import CheckpointError, shown

_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GgufParts:
    """All files of a model as one.

    Attributes:
        paths: The files, in order.
        fields: Metadata by key, those of the first file.
        tensors: Tensors of all files by name.
    """

    paths: tuple[Path, ...]
    fields: Mapping[str, object] = field(repr=False)
    tensors: Mapping[str, StoredTensor] = field(repr=False)


def open_parts(path: Path) -> GgufParts:
    """Read the header of a file and, where it is a part of a model, of all the others.

    Args:
        path: A whole file, or any of the parts ``NAME-00001-of-0000N.gguf``.

    Raises:
        CheckpointError: A file is missing or damaged, or the parts do not belong together.
        UnsupportedModel: A file is of a version or holds a type that is not known here.
    """
    header = read_header(path)
    count = _split(path, header, "count") if "split.count" in header.fields else 1
    if count == 1:
        return GgufParts((path,), header.fields, header.tensors)
    name = _PART_NAME.fullmatch(path.name)
    number = _split(path, header, "no") + 1
    if name is None or (int(name["number"]), int(name["count"])) != (number, count):
        raise CheckpointError(
            f"{path}: part {number} of {count} by its metadata, which its name must end with: "
            f"-{number:05}-of-{count:05}.gguf"
        )
    paths = [
        path.with_name(f"{name['stem']}-{part:05}-of-{count:05}.gguf")
        for part in range(1, count + 1)
    ]
    for part, other in enumerate(paths, 1):
        if not other.is_file():
            raise CheckpointError(
                f"{other}: part {part} of {count} is missing; put it beside {path.name}"
            )
    headers = [header if other == path else read_header(other) for other in paths]
    return GgufParts(tuple(paths), headers[0].fields, _together(paths, headers))


def _together(paths: list[Path], headers: list[GgufHeader]) -> dict[str, StoredTensor]:
    """Return the tensors of all parts, once they are known to be parts of one model."""
    first = headers[0].fields
    total = _split(paths[0], headers[0], "tensors.count")
    tensors: dict[str, StoredTensor] = {}
    for number, (path, header) in enumerate(zip(paths, headers, strict=True)):
        same = {key: header.fields[key] for key in header.fields if key in first}
        differing = [key for key in same if key != "split.no" and same[key] != first[key]]
        if _split(path, header, "no") != number:
            differing.append("split.no")
        differing += [key for key in ("split.count", "split.tensors.count") if key not in same]
        if differing:
            raise CheckpointError(
                f"{path}: not of the same model as {paths[0].name}: {shown(differing[0])} differs"
            )
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise CheckpointError(f"{path}: tensor {shown(name)} is in another part as well")
            tensors[name] = tensor
    if len(tensors) != total:
        raise CheckpointError(
            f"{paths[0]}: its parts hold {len(tensors)} tensors together, not {total}"
        )
    return tensors


def _split(path: Path, header: GgufHeader, key: str) -> int:
    value = header.fields.get(f"split.{key}")
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise CheckpointError(f"{path}: metadata key split.{key} is missing or not a number")
    return value
