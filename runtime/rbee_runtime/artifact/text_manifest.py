"""What the manifests of models that read whole texts have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from rbee_runtime.artifact.parts import FileEntry, Frozen, Precision, Source, Sparse, WeightGroup


class TextShapes(Sparse):
    """The model's dimensions.

    Attributes:
        layers: Blocks.
        hidden: Width of the residual stream.
        intermediate: Width inside the MLP.
        heads: Attention heads, of queries.
        vocab: Rows of the table of tokens.
        context_length: Tokens of a text at most, special ones included.
        kv_heads: Key and value heads of a decoder; ``None`` for an encoder, which has ``heads``.
        head_dim: Width of a decoder's heads; ``None`` for an encoder, which cuts ``hidden``.
    """

    layers: PositiveInt
    hidden: PositiveInt
    intermediate: PositiveInt
    heads: PositiveInt
    vocab: PositiveInt
    context_length: PositiveInt
    kv_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None

    OPTIONAL: ClassVar = ("kv_heads", "head_dim")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if (self.kv_heads is None) != (self.head_dim is None):
            raise ValueError("kv_heads and head_dim come together")
        if self.head_dim is None and self.hidden % self.heads:
            raise ValueError("heads must divide hidden")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError("kv_heads must divide heads")
        return self

    @property
    def attended(self) -> int:
        """Width of all heads."""
        return self.hidden if self.head_dim is None else self.heads * self.head_dim

    @property
    def together(self) -> int:
        """Width of queries, keys and values side by side."""
        if self.kv_heads is None or self.head_dim is None:
            return 3 * self.hidden
        return self.attended + 2 * self.kv_heads * self.head_dim


class TextManifest(Frozen):
    """A manifest of a model that reads whole texts, packed one after another.

    Attributes:
        format_version: Version of this layout.
        task: What the model is for.
        exporter: Name and version of the program that wrote the artifact.
        source: Where the weights came from.
        model_ref: The reference the worker announces, e.g. ``hf:org/name``.
        family: Row of the exporter's family table, e.g. ``bert``.
        shapes: The model's dimensions.
        precision: How the weights are held.
        dialect: Vocabulary of the graph: ONNX Runtime's fused operators.
        files: Every other file of the directory.
        weights: What the weights were and how they are held.
    """

    format_version: int
    task: str
    exporter: str
    source: Source
    model_ref: str
    family: str
    shapes: TextShapes
    precision: Precision
    dialect: Literal["ort"] = "ort"
    files: tuple[FileEntry, ...]
    weights: tuple[WeightGroup, ...] = ()

    @property
    @abstractmethod
    def output(self) -> tuple[str, int]:
        """What the graph gives each text: its name, and how many numbers."""

    @property
    @abstractmethod
    def token_types(self) -> bool:
        """Whether the graph is told each token's type."""

    @property
    def target(self) -> Literal["cpu", "cuda"]:
        """What it is compiled for: at 16 bits for CUDA, and else for the CPU."""
        return "cpu" if self.computes_in == "float32" else "cuda"

    @property
    def computes_in(self) -> Literal["float32", "float16", "bfloat16"]:
        """Type of its activations."""
        if self.precision == "fp16":
            return "float16"
        return "bfloat16" if self.precision == "bf16" else "float32"
