"""What the manifests of all kinds of models are made of."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int4", "gguf"]
Dialect = Literal["ort", "standard", "optimum"]
Role = Literal["graph", "weights", "tokenizer", "engine", "greedy", "sampler", "half_cache_graph"]


class Frozen(BaseModel):
    """A part of a manifest: it never changes, and knows every one of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sparse(Frozen):
    """A part that does not mention what it has not: readers that do not know the key read it.

    Attributes:
        OPTIONAL: The keys of which that holds.
    """

    OPTIONAL: ClassVar[tuple[str, ...]]

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = write(self)
        return {key: value for key, value in told.items() if value or key not in self.OPTIONAL}


class Source(Frozen):
    """The checkpoint an artifact was made from.

    Attributes:
        format: How the checkpoint was stored.
        name: File or directory name, without its path.
        sha256: Digest over the checkpoint's content (a directory's files in order of name).
    """

    format: Literal["gguf", "safetensors"]
    name: str
    sha256: Sha256


class WeightGroup(Frozen):
    """Weights that are held alike.

    Attributes:
        name: Canonical name without the layer, e.g. ``down``.
        source: How the checkpoint stored them, e.g. ``Q4_K``.
        held: How the artifact does, e.g. ``4-bit, blocks of 32, offsets, exact``.
        count: How many there are.
        nbytes: Bytes they take together.
    """

    name: str
    source: str
    held: str
    count: PositiveInt
    nbytes: int = Field(ge=0)


class FileEntry(Frozen):
    """One file of the artifact.

    Attributes:
        role: What it is for.
        path: Name relative to the artifact, never leaving it.
        size: Bytes.
        sha256: Digest of its content.
    """

    role: Role
    path: str
    size: int = Field(ge=0)
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or "\\" in path or not parts.name:
            raise ValueError("must be a relative path inside the artifact")
        if not path.isprintable() or len(path) > 255:
            raise ValueError("must be printable, and of 255 characters at most")
        return path
