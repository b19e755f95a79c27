"""The content of ``artifact.json`` for a language model."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from rbee_runtime.artifact.geometry import CacheGeometry
from rbee_runtime.artifact.parts import (
    Dialect,
    FileEntry,
    Frozen,
    Precision,
    Source,
    Sparse,
    WeightGroup,
)


class ExpertShapes(Frozen):
    """MLPs of which each token is given some.

    Attributes:
        count: How many there are in a layer that has them.
        active: How many of them a token is given.
        intermediate: Width inside one of them.
        layers: How many layers have them.
    """

    count: PositiveInt
    active: PositiveInt
    intermediate: PositiveInt
    layers: PositiveInt

    @model_validator(mode="after")
    def _a_token_is_given_some_of_them(self) -> Self:
        if self.active > self.count:
            raise ValueError("active is more than there are")
        return self


class Shapes(Sparse):
    """The model's dimensions.

    Attributes:
        layers: Decoder blocks.
        hidden: Width of the residual stream.
        intermediate: Width inside the MLP.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of one head.
        vocab: Rows of the embedding; the width of the logits.
        context_length: Positions the model was made for.
        experts: Those of a mixture of experts.
    """

    layers: PositiveInt
    hidden: PositiveInt
    intermediate: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    vocab: PositiveInt
    context_length: PositiveInt
    experts: ExpertShapes | None = None

    OPTIONAL: ClassVar = ("experts",)


class LongRope(Frozen):
    """Two sets of rotary frequencies; which one a sequence turns by depends on its length.

    Attributes:
        original_context: Sequences that will not grow beyond this take the first rows of the
            rotary tables, others the rows from here on.
    """

    original_context: PositiveInt


class Fidelity(Frozen):
    """How far an artifact's predictions are from what the checkpoint's weights mean.

    Attributes:
        text: What was predicted: ``built-in``, or the name of a file.
        tokens: Positions compared.
        divergence: Mean Kullback-Leibler divergence from the reference, in nats.
        agreement: Share of positions at which the likeliest token is the same.
        perplexity: Of the artifact.
        reference_perplexity: Of the checkpoint's weights in float32.
    """

    text: str
    tokens: PositiveInt
    divergence: float
    agreement: float
    perplexity: float
    reference_perplexity: float


class EngineProfile(Frozen):
    """Sizes of a step that an engine takes under one of its optimisation profiles.

    Attributes:
        batch: Rows, fewest and most.
        sequence: New tokens a row, fewest and most.
    """

    batch: tuple[PositiveInt, PositiveInt]
    sequence: tuple[PositiveInt, PositiveInt]


class Engine(Frozen):
    """A TensorRT engine in the artifact.

    Attributes:
        path: Its file.
        library: The library that built it, and the one that can run it.
        version: Of that library.
        architecture: The GPUs it is for, e.g. ``SM89``.
        max_batch: Rows of a decode step at most.
        max_length: Positions of a slot, no more and no fewer.
        profiles: In the engine's order: prefill and decode, or one for both.
    """

    path: str
    library: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    architecture: str
    max_batch: PositiveInt
    max_length: PositiveInt
    profiles: tuple[EngineProfile, ...]


class Manifest(Frozen):
    """The content of a language model's ``artifact.json``, format version 6 or 7.

    Attributes:
        format_version: Version of this layout; 7 where the cache has a state, else 6. A reader
            reads 3 and 4 as they are.
        exporter: Name and version of the program that wrote the artifact.
        source: Where the weights came from.
        model_ref: The reference the worker announces, e.g. ``hf:org/name``.
        family: Row of the exporter's family table, e.g. ``llama``.
        shapes: The model's dimensions.
        precision: How the weights are held.
        dialect: Vocabulary of the graph: ``ort`` uses ONNX Runtime's fused operators, ``standard``
            those of ONNX alone, ``optimum`` is a graph traced by optimum.
        cache: Geometry of the KV cache.
        files: Every other file of the directory.
        bos_token_id: Beginning-of-text token, where the model has one.
        eos_token_ids: All tokens that end a completion.
        chat_template: Jinja source that turns chat messages into a prompt, where the model has one.
        long_rope: Where the model has two sets of rotary frequencies.
        weights: What the weights were and how they are held.
        fidelity: Measured at export, unless that was skipped.
        engines: TensorRT engines.
    """

    format_version: Literal[3, 4, 6, 7] = 6
    exporter: str
    source: Source
    model_ref: str
    family: str
    shapes: Shapes
    precision: Precision
    dialect: Dialect
    cache: CacheGeometry
    files: tuple[FileEntry, ...]
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    chat_template: str | None
    long_rope: LongRope | None = None
    weights: tuple[WeightGroup, ...] = ()
    fidelity: Fidelity | None = None
    engines: tuple[Engine, ...] = ()

    @property
    def target(self) -> Literal["cpu", "cuda", "tensorrt"]:
        """What it is compiled for: CUDA's attention needs 16 bits, and the CPU is best with 32."""
        if self.dialect == "standard":
            return "tensorrt"
        return "cpu" if self.cache.dtype == "float32" else "cuda"

    @property
    def computes_in(self) -> Literal["float32", "float16", "bfloat16"]:
        """Type of its activations."""
        return self.cache.element
