"""A checkpoint in, an artifact out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from rbee_export.checkpoint import Checkpoint, DecoderConfig
from rbee_export.decoder import build
from rbee_export.dialect import OrtDialect
from rbee_export.errors import CheckpointError, ExportError, UnsupportedModel
from rbee_export.staging import staged_directory
from rbee_export.weights import Precision, Weights
from rbee_export.weights_file import WeightsFile
from rbee_runtime.artifact import (
    MANIFEST_NAME,
    CacheGeometry,
    FileEntry,
    Manifest,
    Shapes,
    Source,
)

EXPORTER = f"rbee-export {version('onnx-worker-rbee')}"

GRAPH, WEIGHTS, TOKENIZER = "model.onnx", "model.onnx.data", "tokenizer.json"


LayerProgress = Callable[[int, int], None]
"""Called with layers done and layers in total."""


def _ignore(_done: int, _total: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Options:
    """What to make of a checkpoint.

    Attributes:
        precision: How to hold the weights; ``auto`` keeps a quantised GGUF's own blocks and takes
            ``int8`` otherwise.
        model_ref: The reference the worker will announce; ``None`` makes one of the checkpoint's
            name.
    """

    precision: Literal["auto"] | Precision = "auto"
    model_ref: str | None = None

    def resolve(self, checkpoint: Checkpoint) -> Precision:
        """Return the precision for this checkpoint.

        Raises:
            ExportError: ``gguf`` was asked of a checkpoint without quantised blocks.
        """
        if self.precision == "auto":
            return "gguf" if checkpoint.quantized else "int8"
        if self.precision == "gguf" and not checkpoint.quantized:
            raise ExportError(
                f"{checkpoint.name}: has no quantised blocks for --precision gguf to keep; "
                "use fp32, int8 or int4"
            )
        return self.precision


def identity(checkpoint: Checkpoint, options: Options, content: str) -> str:
    """Return a hex key that differs wherever content (its digest), options or exporter differ."""
    text = f"{EXPORTER}\0{content}\0{options.resolve(checkpoint)}\0{options.model_ref}"
    return hashlib.sha256(text.encode()).hexdigest()


def export(
    checkpoint: Checkpoint,
    target: Path,
    options: Options,
    content: str,
    progress: LayerProgress = _ignore,
) -> Manifest:
    """Write the artifact of ``checkpoint`` to the directory ``target``, whole or not at all.

    The same checkpoint and options give the same bytes.

    Args:
        checkpoint: What to export.
        target: The directory to write; an artifact already there is replaced.
        options: What to make of it.
        content: The checkpoint's :func:`~rbee_export.checkpoint.digest`.
        progress: Called with layers written and layers in total.

    Raises:
        CheckpointError: The checkpoint is damaged.
        UnsupportedModel: It holds something this exporter does not know.
        ExportError: ``target`` cannot be replaced, or the options do not fit the checkpoint.
        OSError: The disk is full or not writable; nothing is left behind.
    """
    config, precision = checkpoint.config, options.resolve(checkpoint)
    _check(checkpoint)
    tokenizer = checkpoint.tokenizer()
    with staged_directory(target) as staging:
        with WeightsFile(staging / WEIGHTS) as weights:
            ops = OrtDialect(config, Weights(checkpoint, precision), weights)
            build(ops, config, lambda done: progress(done, config.layers))
            ir.save(ops.model(EXPORTER), staging / GRAPH)
        (staging / TOKENIZER).write_text(tokenizer.tokenizer_json, encoding="utf-8")
        manifest = Manifest(
            exporter=EXPORTER,
            source=Source(format=checkpoint.format, name=checkpoint.name, sha256=content),
            model_ref=options.model_ref or _reference(checkpoint),
            family=config.family,
            shapes=_shapes(config),
            precision=precision,
            dialect="ort",
            cache=CacheGeometry(
                layers=config.layers,
                kv_heads=config.kv_heads,
                head_dim=config.head_dim,
                dtype="float32",
            ),
            files=(
                _entry("graph", staging / GRAPH),
                FileEntry(role="weights", path=WEIGHTS, size=weights.size, sha256=weights.sha256),
                _entry("tokenizer", staging / TOKENIZER),
            ),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_ids=tokenizer.eos_token_ids,
            chat_template=tokenizer.chat_template,
        )
        text = manifest.model_dump_json(indent=2)
        (staging / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
    return manifest


def _check(checkpoint: Checkpoint) -> None:
    """Refuse what the graph could be built from, but not run."""
    c = checkpoint.config
    sizes = (c.layers, c.hidden, c.intermediate, c.heads, c.kv_heads, c.head_dim, c.vocab)
    if min(*sizes, c.context_length) < 1:
        raise CheckpointError(f"{checkpoint.name}: a dimension of its configuration is below 1")
    if c.heads % c.kv_heads:
        raise CheckpointError(
            f"{checkpoint.name}: {c.heads} query heads cannot share {c.kv_heads} key heads"
        )
    if c.head_dim % 16:
        raise UnsupportedModel(
            f"{checkpoint.name}: head dimension {c.head_dim} is not a multiple of 16, "
            "which the attention operator needs"
        )


def _reference(checkpoint: Checkpoint) -> str:
    """Make a model reference of a checkpoint's name, in the characters the contract allows."""
    stem = checkpoint.name.removesuffix(".gguf")
    return "file:" + re.sub(r"[^A-Za-z0-9._-]", "-", stem)


def _shapes(c: DecoderConfig) -> Shapes:
    return Shapes(
        layers=c.layers,
        hidden=c.hidden,
        intermediate=c.intermediate,
        heads=c.heads,
        kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        vocab=c.vocab,
        context_length=c.context_length,
    )


def _entry(role: Literal["graph", "tokenizer"], file: Path) -> FileEntry:
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(role=role, path=file.name, size=len(content), sha256=digest)
