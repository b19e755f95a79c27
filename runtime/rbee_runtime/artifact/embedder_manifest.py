"""The content of ``artifact.json`` for a model of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from rbee_runtime.artifact.parts import FileEntry, Frozen, Precision, Source, Sparse, WeightGroup


class EmbedderShapes(Sparse):
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


class Embedding(Sparse):
    """What becomes of the hidden states of a text's tokens.

    Attributes:
        dim: Width of a vector.
        pooling: Which of them count: the mean of all, the first (``cls``), or the last.
        normalized: Whether vectors are of length 1.
        prompt: What is put before every text: the prompt that the model was trained with.
        prompts: What may be put there instead, by name.
        matryoshka: Lengths below ``dim`` that vectors may be cut to, and then made of length 1
            again: the model was trained for it.
    """

    dim: PositiveInt
    pooling: Literal["mean", "cls", "last"]
    normalized: bool
    prompt: str = ""
    prompts: Mapping[str, str] = {}
    matryoshka: Literal["any"] | tuple[PositiveInt, ...] = ()

    OPTIONAL: ClassVar = ("prompts", "matryoshka")

    @model_validator(mode="after")
    def _cuts_are_shorter(self) -> Self:
        if self.matryoshka != "any" and any(length >= self.dim for length in self.matryoshka):
            raise ValueError("matryoshka lists lengths below dim")
        return self

    def may_have(self, dimensions: int) -> bool:
        """Return whether vectors may be of this length: whole, or cut."""
        if self.matryoshka == "any":
            return 1 <= dimensions <= self.dim
        return dimensions == self.dim or dimensions in self.matryoshka


class EmbeddingFidelity(Frozen):
    """How far an artifact's vectors are from those of the checkpoint's weights in float32.

    Attributes:
        text: What was embedded: ``built-in``, or the name of a file.
        texts: How many texts it was cut into.
        tokens: Of all of them.
        mean_cosine: Cosine of a vector and its reference, on average.
        least_cosine: The same, of the text that fares worst.
        agreement: Share of texts whose nearest neighbour among the others is the same.
    """

    text: str
    texts: PositiveInt
    tokens: PositiveInt
    mean_cosine: float
    least_cosine: float
    agreement: float


class EmbedderManifest(Frozen):
    """The content of the ``artifact.json`` of a model of embeddings, format version 5.

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
        embedding: What a text's vector is.
        files: Every other file of the directory.
        weights: What the weights were and how they are held.
        fidelity: Measured at export, unless that was skipped.
    """

    format_version: Literal[5] = 5
    task: Literal["embed"] = "embed"
    exporter: str
    source: Source
    model_ref: str
    family: str
    shapes: EmbedderShapes
    precision: Precision
    dialect: Literal["ort"] = "ort"
    embedding: Embedding
    files: tuple[FileEntry, ...]
    weights: tuple[WeightGroup, ...] = ()
    fidelity: EmbeddingFidelity | None = None

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
