"""Small checkpoints with random weights, in the layouts model hubs and llama.cpp use."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee_export.blocks import BlockMatrix

from .gguf_conversion import plain_name, save_gguf
from .more_families import know_more_families
from .tiny_families import save_checkpoint
from .tiny_tokenizer import CHAT_TEMPLATE, END_OF_TEXT, IM_END, IM_START, VOCAB, tokenizer_json

__all__ = [
    "CHAT_TEMPLATE",
    "CONFIG",
    "copy_of",
    "load_reference",
    "reference_logits",
    "save_gguf",
    "save_llama",
    "tokenizer_json",
    "with_rounded_products",
    "with_weights",
]

CONTEXT = 1024
CONFIG: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": IM_START,
    "eos_token_id": [IM_END, END_OF_TEXT],
    # Far wider than models start with, so that attention attends and the best token stands out.
    "initializer_range": 0.2,
}


def save_llama(
    directory: Path,
    *,
    model_type: str = "llama",
    dtype: str = "float32",
    max_shard_size: str = "5GB",
    **config: Any,
) -> Path:
    """Save a random checkpoint and its tokenizer as ``transformers`` does.

    Args:
        directory: Where to.
        model_type: ``llama`` or ``mistral``.
        dtype: Of the stored weights: ``float32``, ``float16`` or ``bfloat16``.
        max_shard_size: Size from which the weights are cut into several files.
        config: What differs from ``CONFIG``.
    """
    save_checkpoint(directory, model_type, {**CONFIG, **config}, dtype, max_shard_size)
    return directory


def copy_of(checkpoint: Path, directory: Path) -> Path:
    """Copy a checkpoint, for a test to damage."""
    return Path(shutil.copytree(checkpoint, directory / checkpoint.name))


def load_reference(checkpoint: Path) -> Any:
    """Open a checkpoint with ``transformers``, in float32."""
    import torch
    import transformers

    know_more_families()
    torch.set_num_threads(1)  # a second one costs more than it brings at these sizes
    # Other implementations of attention leave soft caps out.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def with_weights(model: Any, weights: Mapping[str, NDArray[np.float32]]) -> Any:
    """Replace a reference model's weights by those of the same names in its checkpoint."""
    import torch

    own = {plain_name(name): weight for name, weight in model.named_parameters()}
    with torch.no_grad():
        for name, weight in weights.items():
            own[plain_name(name)].copy_(torch.tensor(weight))
    return model


def reference_logits(model: Any, ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the logits after each of ``ids``: ``float32[len(ids), vocab]``."""
    import torch

    with torch.inference_mode():
        outputs = model(torch.tensor([list(ids)]), use_cache=False)
        logits: NDArray[np.float32] = outputs.logits[0].numpy()
    return logits


def with_rounded_products(model: Any, blocks: Mapping[str, BlockMatrix]) -> Any:
    """Have a reference model multiply as ``MatMulNBits`` does, which rounds activations.

    The activations of each block of 32 become eight-bit integers times a scale; the offsets of
    blocks that have them multiply the activations as they are.

    Args:
        model: Changed in place; its weights become those of ``blocks``.
        blocks: By name of the weight, tied ones under the embedding's name.
    """
    import torch

    with_weights(model, {name: matrix.dequantize() for name, matrix in blocks.items()})
    tied = model.config.tie_word_embeddings
    for name, module in model.named_modules():
        stored = "model.embed_tokens" if tied and name == "lm_head" else name
        matrix = blocks.get(f"{stored}.weight")
        if isinstance(module, torch.nn.Linear) and matrix is not None:
            offsets = np.zeros_like(matrix.scales) if matrix.offsets is None else matrix.offsets
            wide = torch.from_numpy(np.repeat(offsets, 32, axis=1))
            module.forward = functools.partial(_rounded_product, module.weight - wide, wide)
    return model


def _rounded_product(centred: Any, offsets: Any, x: Any) -> Any:
    parts = x.unflatten(-1, (-1, 32))
    scale = parts.abs().amax(-1, keepdim=True) / 127
    rounded = ((parts / scale).round() * scale).flatten(-2)
    return rounded @ centred.T + x @ offsets.T
