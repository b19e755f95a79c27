"""The header of a GGUF file: its metadata, and where its tensors lie.

The layout is that of ggml's ``gguf.h``, versions 2 and 3, little-endian::

    magic, version, number of tensors, number of keys
    key, type, value                              once for every key
    name, dimensions, element type, offset        once for every tensor
    padding to a multiple of general.alignment
    tensor data, which offsets count from

Nothing in it is believed before it is checked against the size of the file.
"""

from __future__ import annotations

import itertools
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType as ValueType
from numpy.typing import NDArray

from rbee_export.checkpoint.own_file import require_fetched
from rbee_export.errors import CheckpointError, UnsupportedModel, shown

_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MOST_DIMENSIONS = 4  # GGML_MAX_DIMS

_MOST_ELEMENTS = 1 << 23
"""Elements of all arrays of the metadata together. As Python values they take up to thirty times
their size in the file; the largest vocabularies, with their scores and merges, have a million.
"""

_SMALLEST_KEY = 8 + 4 + 1
_SMALLEST_TENSOR = 8 + 4 + 8 + 4 + 8

_NUMBERS: Mapping[int, np.dtype[np.generic]] = {
    kind.value: np.dtype(code)
    for kind, code in {
        ValueType.UINT8: "u1",
        ValueType.INT8: "i1",
        ValueType.UINT16: "<u2",
        ValueType.INT16: "<i2",
        ValueType.UINT32: "<u4",
        ValueType.INT32: "<i4",
        ValueType.FLOAT32: "<f4",
        ValueType.BOOL: "?",
        ValueType.UINT64: "<u8",
        ValueType.INT64: "<i8",
        ValueType.FLOAT64: "<f8",
    }.items()
}
_ELEMENTS: Mapping[Kind, np.dtype[np.generic]] = {
    Kind.F32: np.dtype("<f4"),
    Kind.F16: np.dtype("<f2"),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the file has it.

    Attributes:
        name: Its name, e.g. ``blk.0.attn_q.weight``.
        shape: Innermost dimension first, as in the file: ``(K, N)`` for a matrix.
        tensor_type: GGML's type of its elements.
        data: Its memory-mapped content, outermost dimension first: ``float32`` or ``float16`` for
            these types, ``uint8`` of each row's bytes for the others.
    """

    name: str
    shape: tuple[int, ...]
    tensor_type: Kind
    data: NDArray[np.generic] = field(repr=False)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        fields: Metadata by key: ``str``, ``int``, ``float`` or ``bool``, or a flat ``list`` of one
            of them.
        tensors: Tensors by name, in the order of the file.
    """

    fields: Mapping[str, object]
    tensors: Mapping[str, StoredTensor]


def read_header(path: Path) -> GgufHeader:
    """Read a GGUF file's header and map its tensors into memory.

    Memory stays within a small multiple of the header's size.

    Raises:
        CheckpointError: The file cannot be read, is no GGUF, is cut short, or contradicts itself.
        UnsupportedModel: It is of another version or byte order, nests arrays, or has elements of
            a type unknown here.
    """
    try:
        require_fetched(path)
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # how mmap calls an empty file
        raise CheckpointError(f"{path}: not a whole GGUF file (it is empty)") from error
    try:
        return _Reader(content).header()
    except _Damaged as error:
        raise CheckpointError(
            f"{path}: not a whole GGUF file ({error}); download or convert it again"
        ) from error
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{path}: {error}") from error


class _Damaged(Exception):
    """What is wrong with the file."""


class _Reader:
    """Reads a file from front to back.

    Attributes:
        content: The file.
        at: Where the next read starts.
        elements_left: How many more elements arrays may have.
    """

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.at = 0
        self.elements_left = _MOST_ELEMENTS

    def header(self) -> GgufHeader:
        """Read everything up to the tensors' data."""
        magic = self.content[:4]
        if magic != b"GGUF":
            raise _Damaged(f"it begins with {magic!r}")
        self.at = 4
        version = self.number("<I")
        if version not in _VERSIONS:
            if version >> 24 in _VERSIONS:
                raise UnsupportedModel("a big-endian GGUF file is not supported")
            raise UnsupportedModel(f"GGUF version {version} is not supported; 2 and 3 are")
        tensors, keys = self.number("<Q"), self.number("<Q")
        self.at_most(tensors, _SMALLEST_TENSOR, "tensors")
        self.at_most(keys, _SMALLEST_KEY, "metadata keys")
        fields = self.fields(keys)
        return GgufHeader(fields, self.tensors(tensors, _alignment(fields)))

    def fields(self, count: int) -> dict[str, object]:
        """Read the metadata."""
        fields: dict[str, object] = {}
        for number in range(count):
            key = self.text(f"metadata key {number}")
            if key in fields:
                raise _Damaged(f"metadata key {shown(key)} comes twice")
            fields[key] = self.value(key)
        return fields

    def value(self, key: str) -> object:
        """Read the value of a metadata key, its type before it."""
        kind = self.number("<I")
        if kind == ValueType.STRING:
            return self.text(f"metadata key {shown(key)}")
        if kind != ValueType.ARRAY:
            return self.numbers(kind, 1, key)[0]
        kind, count = self.number("<I"), self.number("<Q")
        if kind == ValueType.ARRAY:
            raise UnsupportedModel(f"metadata key {shown(key)}: arrays of arrays are not supported")
        if kind == ValueType.STRING:
            self.count_elements(count, 8, key)
            return self.texts(count, key)
        return self.numbers(kind, count, key)

    def numbers(self, kind: int, count: int, key: str) -> list[object]:
        """Read numbers of one type."""
        if kind not in _NUMBERS:
            raise _Damaged(f"metadata key {shown(key)} has a value of no known type ({kind})")
        dtype = _NUMBERS[kind]
        self.count_elements(count, dtype.itemsize, key)
        if not count:
            return []
        values: list[object] = np.frombuffer(self.content, dtype, count, self.at).tolist()
        self.at += count * dtype.itemsize
        return values

    def count_elements(self, count: int, size: int, key: str) -> None:
        """Check an array's length before anything is made of it."""
        self.at_most(count, size, f"elements of metadata key {shown(key)}")
        if count > self.elements_left:
            raise _Damaged(f"its metadata have more than {_MOST_ELEMENTS} elements")
        self.elements_left -= count

    def texts(self, count: int, key: str) -> list[str]:
        """Read the strings of an array: vocabularies have hundreds of thousands."""
        content, at = self.content, self.at
        length_at = struct.Struct("<Q").unpack_from
        texts = []
        try:
            for _ in range(count):
                start = at + 8
                at = start + length_at(content, at)[0]
                texts.append(str(content[start:at], "utf-8"))
        except (struct.error, OverflowError, IndexError) as error:
            raise _Damaged(f"it ends within metadata key {shown(key)}") from error
        except UnicodeDecodeError as error:
            raise _Damaged(f"metadata key {shown(key)} is not UTF-8") from error
        if at > len(content):
            raise _Damaged(f"it ends within metadata key {shown(key)}")
        self.at = at
        return texts

    def text(self, what: str) -> str:
        """Read one string."""
        length = self.number("<Q")
        start, end = self.at, self.at + length
        if end > len(self.content):
            raise _Damaged(f"it ends within {what}")
        self.at = end
        try:
            return str(self.content[start:end], "utf-8")
        except UnicodeDecodeError as error:
            raise _Damaged(f"{what} is not UTF-8") from error

    def number(self, code: str) -> int:
        """Read one integer."""
        try:
            value: int = struct.unpack_from(code, self.content, self.at)[0]
        except struct.error as error:
            raise _Damaged(f"it ends within its header, at byte {len(self.content)}") from error
        self.at += struct.calcsize(code)
        return value

    def at_most(self, count: int, size: int, what: str) -> None:
        """Check that ``count`` things of at least ``size`` bytes can follow."""
        if count > (len(self.content) - self.at) // size:
            raise _Damaged(
                f"it claims {count} {what}, more than its {len(self.content)} bytes hold"
            )

    def tensors(self, count: int, alignment: int) -> dict[str, StoredTensor]:
        """Read where the tensors lie, and map them."""
        infos: dict[str, tuple[tuple[int, ...], Kind, int]] = {}
        for number in range(count):
            name = self.text(f"the name of tensor {number}")
            if name in infos:
                raise _Damaged(f"tensor {shown(name)} comes twice")
            dimensions = self.number("<I")
            if not 1 <= dimensions <= _MOST_DIMENSIONS:
                raise _Damaged(f"tensor {shown(name)} has {dimensions} dimensions")
            shape = tuple(self.number("<Q") for _ in range(dimensions))
            infos[name] = shape, _kind(name, self.number("<I")), self.number("<Q")
        start = -(-self.at // alignment) * alignment
        found: dict[str, StoredTensor] = {}
        spans: list[tuple[int, int, str]] = []
        for name, (shape, kind, offset) in infos.items():
            if offset % alignment:
                raise _Damaged(f"tensor {shown(name)} is not at a multiple of {alignment} bytes")
            at, size = start + offset, _size(name, shape, kind)
            if at + size > len(self.content):
                raise _Damaged(
                    f"tensor {shown(name)} ends at byte {at + size}, "
                    f"the file at {len(self.content)}"
                )
            spans.append((at, at + size, name))
            dtype = _ELEMENTS.get(kind, np.dtype(np.uint8))
            data = np.frombuffer(self.content, dtype, size // dtype.itemsize, at)
            found[name] = StoredTensor(name, shape, kind, data.reshape(*shape[:0:-1], -1))
        spans.sort()
        for (_, end, name), (at, _, other) in itertools.pairwise(spans):
            if at < end:
                raise _Damaged(f"tensors {shown(name)} and {shown(other)} overlap")
        return found


def _alignment(fields: Mapping[str, object]) -> int:
    value = fields.get("general.alignment", _ALIGNMENT)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value & (value - 1):
        raise _Damaged("general.alignment is not a power of two")
    return value


def _kind(name: str, number: int) -> Kind:
    try:
        return Kind(number)
    except ValueError:
        raise UnsupportedModel(
            f"tensor {shown(name)} has elements of type {number}, which is not known here"
        ) from None


def _size(name: str, shape: tuple[int, ...], kind: Kind) -> int:
    """Return the bytes a tensor takes."""
    block, size = GGML_QUANT_SIZES[kind]
    if min(shape) < 1 or shape[0] % block:
        raise _Damaged(
            f"tensor {shown(name)} of type {kind.name} has dimensions {list(shape)}, of which the "
            f"first must be a multiple of {block}"
        )
    return math.prod(shape) // block * size
