"""The process that loads a checkpoint with transformers and traces it with optimum.

It runs by itself, so that what these libraries print, patch and keep in memory ends with it:
``python -m rbee_export.optimum_path.process CHECKPOINT OUTPUT``. It writes one JSON object a line
to its standard output: ``{"stage": ...}`` as it goes on, and at the end ``{"traced": ...}`` or
``{"error": kind, "message": ...}``. In OUTPUT it leaves ``model.onnx`` and ``reference.npz``, what
the model itself answers to a random text. It ends when its standard input does.
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from rbee_export.errors import CheckpointError, ExportError, UnsupportedModel
from rbee_export.optimum_path.context import Context, size
from rbee_export.optimum_path.schedule import Schedule
from rbee_export.optimum_path.source import Source
from rbee_export.optimum_path.traced import REFERENCE, Traced

TASK = "text-generation-with-past"

_ROOM, _COPIES = 8 << 30, 6
"""Address space the process may take: bytes, and copies of the weights in float32, of which the
model, the trace and its serialisation are some."""


def main() -> int:
    """Run the process and return its exit code."""
    # Whatever prints to the standard output from here on prints to the error stream.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)

        def say(**line: Any) -> None:
            print(json.dumps(line), file=out, flush=True)

        threading.Thread(target=_end_with_parent, daemon=True).start()
        try:
            source = Source.open(Path(sys.argv[1]))
            traced = _trace(source, Path(sys.argv[2]), lambda stage: say(stage=stage))
        except ExportError as error:
            say(error=type(error).__name__, message=str(error))
            return 1
        say(traced=asdict(traced))
    return 0


def _end_with_parent() -> None:
    # Not through sys.stdin, whose lock a waiting thread holds as the interpreter shuts down.
    while os.read(0, 1):
        pass
    os._exit(1)


def _trace(source: Source, output: Path, stage: Callable[[str], None]) -> Traced:
    stage("starting optimum")
    import torch
    from optimum.exporters.onnx import onnx_export_from_model

    checkpoint = source.path
    _limit_memory(source)
    config = _load_config(source)
    text = config.get_text_config(decoder=True)
    layers = _required(text, "num_hidden_layers")
    if layers > source.tensors:
        raise CheckpointError(
            f"{checkpoint}: config.json claims {layers} layers, and the weights' files hold "
            f"{source.tensors} tensors"
        )
    stage("loading")
    model = _load_model(checkpoint, config)
    context = Context.of(text)
    vocab = _required(text, "vocab_size")
    positions = context.tried
    ids = np.random.default_rng(0).integers(0, vocab, positions)
    stage("running the original")
    with torch.no_grad():
        rows = Schedule.over(positions).compared_positions
        logits = np.concatenate([_logits(model, ids[:1], [0]), _logits(model, ids, rows)])
    if not np.isfinite(logits).all():
        raise CheckpointError(
            f"{checkpoint}: the model computes infinities or NaN from its weights"
        )
    np.savez(output / REFERENCE, ids=ids, logits=logits)

    stage("tracing")
    _keep_last_token(model)
    # Where it would look for tokenizers and the like to copy.
    model.config._name_or_path = str(output)
    try:
        onnx_export_from_model(model=model, output=output, task=TASK, do_validation=False)
    except Exception as error:  # anything may come out of tracing foreign code
        raise UnsupportedModel(
            f"{checkpoint}: optimum cannot export model type {config.model_type!r}: {_said(error)}"
        ) from error
    return Traced(
        family=str(config.model_type),
        layers=layers,
        hidden=_required(text, "hidden_size"),
        intermediate=_intermediate(text),
        heads=_required(text, "num_attention_heads"),
        vocab=vocab,
        context_length=context.length,
        notes=context.notes,
    )


def _limit_memory(source: Source) -> None:
    """Bound the address space, so that a hostile configuration cannot fill the machine."""
    room = _ROOM + _COPIES * source.elements * np.dtype(np.float32).itemsize
    limit = psutil.Process().memory_info().vms + room
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _load_config(source: Source) -> Any:
    from optimum.exporters.tasks import TasksManager
    from transformers import CONFIG_MAPPING, AutoConfig

    checkpoint, kind = source.path, source.model_type
    if kind not in CONFIG_MAPPING:
        raise UnsupportedModel(
            f"{checkpoint}: model type {kind!r} is unknown to the installed transformers, and code "
            "that comes with a checkpoint is never run"
        )
    try:
        tasks = TasksManager.get_supported_tasks_for_model_type(
            kind, exporter="onnx", library_name="transformers"
        )
    except KeyError:
        tasks = {}
    if TASK not in tasks:
        raise UnsupportedModel(
            f"{checkpoint}: model type {kind!r} is not among the decoders that optimum exports"
        )
    try:
        config = AutoConfig.from_pretrained(
            checkpoint, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # it checks little and raises all kinds
        raise CheckpointError(
            f"{checkpoint / 'config.json'}: not a configuration transformers can read: "
            f"{_said(error)}"
        ) from error
    if config.is_encoder_decoder:
        raise UnsupportedModel(f"{checkpoint}: an encoder with a decoder, which is not supported")
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        raise UnsupportedModel(
            f"{checkpoint}: its weights are quantised, which optimum cannot export; "
            "take the checkpoint it was quantised from"
        )
    return config


def _load_model(checkpoint: Path, config: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM  # declared to return a model, though here it is a pair
    try:
        model, loaded = loader.from_pretrained(
            checkpoint,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # it raises all kinds for damaged files and contradictions
        raise CheckpointError(
            f"{checkpoint}: transformers cannot load it: {_said(error)}"
        ) from error
    # It fills what is missing with random numbers and drops what is too much.
    for kind, fault in (("missing_keys", "missing"), ("unexpected_keys", "not part of the model")):
        if names := sorted(loaded[kind]):
            more = f" and {len(names) - 1} more" if names[1:] else ""
            raise CheckpointError(
                f"{checkpoint}: tensor {names[0]}{more}: {fault}, going by config.json"
            )
    return model.eval()


def _required(config: Any, name: str) -> int:
    value = size(config, name)
    if value is None:
        raise CheckpointError(
            f"{sys.argv[1]}/config.json: {name} is missing or not a positive whole number"
        )
    return value


def _intermediate(text: Any) -> int:
    for name in ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"):
        if width := size(text, name):
            return width
    return 4 * _required(text, "hidden_size")


def _logits(model: Any, ids: NDArray[np.int64], rows: list[int]) -> NDArray[np.float32]:
    """Return the logits at the positions ``rows``, ``float32[len(rows), vocab]``."""
    import torch

    options = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = len(ids) - rows[0]
    tokens = torch.from_numpy(ids)[None]
    mask = torch.ones_like(tokens)
    logits = model(tokens, attention_mask=mask, use_cache=False, **options).logits[0]
    kept: NDArray[np.float32] = logits[[row - len(ids) for row in rows]].numpy()
    return kept


def _keep_last_token(model: Any) -> None:
    """Have the output projection see the last token alone: nobody asks for the other logits."""
    projection = model.get_output_embeddings()
    if projection is not None:
        projection.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, -1:], *inputs[1:]))


def _said(error: BaseException) -> str:
    """Return an error's type and message in one line of a readable length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


if __name__ == "__main__":
    sys.exit(main())
