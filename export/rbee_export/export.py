"""A checkpoint in, an artifact out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import onnx_ir as ir

from rbee_export.calibration import calibration_ids
from rbee_export.checkpoint import Checkpoint, DecoderConfig
from rbee_export.checkpoint.config import DeltaNet, Mamba2, Mixer
from rbee_export.decoder import build
from rbee_export.decoder_limits import check_decoder
from rbee_export.dialect import (
    CalibratedDialect,
    OrtDialect,
    ReferenceDialect,
    StandardDialect,
    greedy_graph,
    halve_cache,
    sampler_graph,
)
from rbee_export.engine_builder import build_engine
from rbee_export.fidelity import Progress, Text, measure, untold
from rbee_export.options import EXPORTER, Options, TensorRtTarget
from rbee_export.staging import file_entry, staged_directory
from rbee_export.tensorrt_library import choose
from rbee_export.weights import Weights, summed_up
from rbee_export.weights_file import WeightsFile
from rbee_runtime.artifact import (
    MANIFEST_NAME,
    Artifact,
    CacheGeometry,
    Engine,
    EngineProfile,
    ExpertShapes,
    FileEntry,
    LongRope,
    Manifest,
    Shapes,
    Source,
    StateGeometry,
    TextManifest,
)

GRAPH, WEIGHTS, TOKENIZER = "model.onnx", "model.onnx.data", "tokenizer.json"
GREEDY, SAMPLER = "greedy.onnx", "sampler.onnx"
HALF_CACHE_GRAPH = "model.half-cache.onnx"

_BESIDE: Mapping[ir.DataType, Literal["fp32", "fp16", "bf16"]] = MappingProxyType(
    {ir.DataType.FLOAT: "fp32", ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}
)
_CACHE: Mapping[ir.DataType, Literal["float32", "float16", "bfloat16"]] = MappingProxyType(
    {
        ir.DataType.FLOAT: "float32",
        ir.DataType.FLOAT16: "float16",
        ir.DataType.BFLOAT16: "bfloat16",
    }
)


def export(
    checkpoint: Checkpoint,
    target: Path,
    options: Options,
    content: str,
    progress: Progress = untold,
    *,
    text: Text | None = None,
) -> Manifest:
    """Write the artifact of ``checkpoint`` to the directory ``target``, whole or not at all.

    The same checkpoint and options give the same bytes, engines apart, and ``int4`` apart between
    processors: sums of another order tip weights that lie half-way.

    Args:
        checkpoint: What to export.
        target: The directory to write; an artifact already there is replaced.
        options: What to make of it.
        content: The checkpoint's :func:`~rbee_export.checkpoint.digest`.
        progress: Called as the export proceeds.
        text: What to measure fidelity on; ``None`` leaves it unmeasured.

    Raises:
        CheckpointError: The checkpoint is damaged.
        UnsupportedModel: It holds something this exporter does not know.
        ExportError: ``target`` cannot be replaced, or the options do not fit the checkpoint.
        OSError: The disk is full or not writable; nothing is left behind.
    """
    config, precision = checkpoint.config, options.resolve(checkpoint)
    check_decoder(checkpoint.name, config)
    tokenizer = checkpoint.tokenizer()
    dtype = options.computes_in(checkpoint, precision)
    weights = Weights(checkpoint, precision, _BESIDE[dtype])
    calibration: Sequence[int] = ()
    if precision == "int4":
        calibration = calibration_ids(tokenizer.tokenizer_json, config)
    standard = options.tensorrt is not None
    if options.tensorrt is not None and options.tensorrt.engines:
        for arch in options.tensorrt.architectures or (None,):
            choose(arch)  # before the work, not after it
    with staged_directory(target) as staging:
        with WeightsFile(staging / WEIGHTS) as file:
            dialect = StandardDialect if standard else OrtDialect
            ops = dialect(config, weights, file, dtype)
            _build(ops, checkpoint, weights, calibration, progress)
            model = ops.model(EXPORTER)
            ir.save(model, staging / GRAPH)
        half: tuple[FileEntry, ...] = ()
        if dtype == ir.DataType.FLOAT and precision != "fp32":
            halve_cache(model)
            ir.save(model, staging / HALF_CACHE_GRAPH)
            half = (file_entry("half_cache_graph", staging / HALF_CACHE_GRAPH),)
        samplers = _samplers(staging, config.vocab) if _samples(dtype, options) else ()
        engines = _engines(staging, options.tensorrt, progress)
        (staging / TOKENIZER).write_text(tokenizer.tokenizer_json, encoding="utf-8")
        manifest = Manifest(
            format_version=6 if config.mixer is None else 7,
            exporter=EXPORTER,
            source=Source(format=checkpoint.format, name=checkpoint.name, sha256=content),
            model_ref=options.model_ref or reference(checkpoint.name),
            family=config.family,
            shapes=_shapes(config),
            precision=precision,
            dialect="standard" if standard else "ort",
            cache=CacheGeometry(
                layers=config.layers,
                kv_heads=config.kv_heads,
                head_dim=config.head_dim,
                dtype=_CACHE[dtype],
                window=None if standard else config.window,
                windowed_layers=() if standard else config.windowed_layers,
                state=None if config.mixer is None else _state(config.mixer),
            ),
            files=(
                file_entry("graph", staging / GRAPH),
                *half,
                *file.entries,
                *samplers,
                file_entry("tokenizer", staging / TOKENIZER),
                *(file_entry("engine", staging / engine.path) for engine in engines),
            ),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_ids=tokenizer.eos_token_ids,
            chat_template=tokenizer.chat_template,
            long_rope=None
            if config.long_rope_from is None
            else LongRope(original_context=config.long_rope_from),
            weights=summed_up(weights.report),
            engines=engines,
        )
        if text is not None:
            fidelity = measure(Artifact(staging, manifest), checkpoint, text, progress)
            manifest = manifest.model_copy(update={"fidelity": fidelity})
        write_manifest(manifest, staging)
    return manifest


def _build(
    graph: OrtDialect | StandardDialect,
    checkpoint: Checkpoint,
    weights: Weights,
    text: Sequence[int],
    progress: Progress,
) -> None:
    """Emit a checkpoint's graph, its matrices rounded to what they make of a text, if there is one.

    Args:
        graph: Where to.
        checkpoint: The checkpoint.
        weights: Its weights, at the graph's precision.
        text: The tokens, or none.
        progress: Called after each layer.
    """
    config = checkpoint.config

    def layer(done: int) -> None:
        progress("layers", done, config.layers)

    if not text:
        build(graph, config, layer)
        return
    evaluation = ReferenceDialect(config, Weights(checkpoint, "fp32"), text)
    # Weights that lead beyond what float32 can hold are rounded by themselves.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        build(CalibratedDialect(graph, evaluation, weights), config, layer)


def write_manifest(manifest: Manifest | TextManifest, directory: Path) -> None:
    """Write a manifest into an artifact's directory."""
    text = manifest.model_dump_json(indent=2)
    (directory / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


def _samples(dtype: ir.DataType, options: Options) -> bool:
    """Return whether an artifact is for a device that keeps its logits."""
    return options.tensorrt is not None or dtype is not ir.DataType.FLOAT


def _samplers(staging: Path, vocab: int) -> tuple[FileEntry, ...]:
    """Write the graphs that draw tokens."""
    ir.save(greedy_graph(vocab, EXPORTER), staging / GREEDY)
    ir.save(sampler_graph(vocab, EXPORTER), staging / SAMPLER)
    return file_entry("greedy", staging / GREEDY), file_entry("sampler", staging / SAMPLER)


def _engines(
    staging: Path, target: TensorRtTarget | None, progress: Progress
) -> tuple[Engine, ...]:
    if target is None or not target.engines:
        return ()
    # How long kernels took on this machine, for the next engine to be built sooner.
    timings = Path.home() / ".cache" / "rbee" / "tensorrt.timings"
    engines = []
    for arch in target.architectures or (None,):
        file = staging / f"{arch or 'native'}.engine"
        info = build_engine(
            staging / GRAPH,
            file,
            arch=arch,
            max_batch=target.max_batch,
            max_len=target.max_len,
            progress=progress,
            timing_cache=timings,
        )
        engines.append(
            Engine(
                path=file.name,
                library=info.library,
                version=info.version,
                architecture=info.arch,
                max_batch=target.max_batch,
                max_length=info.max_len,
                profiles=tuple(
                    EngineProfile(batch=profile.batch, sequence=profile.sequence)
                    for profile in info.profiles
                ),
            )
        )
    return tuple(engines)


def reference(name: str) -> str:
    """Make a model reference of a checkpoint's name, in the characters the contract allows."""
    stem = name.removesuffix(".gguf")
    return "file:" + re.sub(r"[^A-Za-z0-9._-]", "-", stem)


def _state(mixer: Mixer) -> StateGeometry:
    match mixer:
        case DeltaNet():
            matrices = mixer.value_heads, mixer.key_dim, mixer.value_dim
        case Mamba2():
            matrices = mixer.heads, mixer.state_dim, mixer.head_dim
        case _:
            matrices = 0, 0, 0
    heads, key_dim, value_dim = matrices
    return StateGeometry(
        layers=tuple(sorted(mixer.layers)),
        channels=mixer.channels,
        taps=mixer.taps,
        heads=heads,
        key_dim=key_dim,
        value_dim=value_dim,
    )


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
        experts=None
        if c.experts is None
        else ExpertShapes(
            count=c.experts.count,
            active=c.experts.active,
            intermediate=c.experts.intermediate,
            layers=len(c.experts.layers),
        ),
    )
