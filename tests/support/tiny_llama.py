"""Small checkpoints with random weights, in the layouts model hubs and llama.cpp use."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rbee_export.blocks import BlockMatrix

VOCAB = 384
CONTEXT = 1024
END_OF_TEXT, IM_START, IM_END = 0, 1, 2
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LINES = (
    "The worker reads a checkpoint once, writes what it needs, and never looks back.",
    "Once upon a time there was a hive, and in the hive there was a queen with many workers.",
    "A token in, a token out: the cache grows by one position and the stream by one event.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. El niño comió piñas.",
    "你好，世界。こんにちは世界 🙂🙂 👩‍👩‍👧‍👦 naïve café 1,234.50",
    "def step(rows):\n    return [row * 2 for row in rows if row % 3 == 0]\n",
)
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


@functools.cache
def tokenizer_json() -> str:
    """Return a byte-level BPE tokenizer of ``VOCAB`` tokens that restores any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES * 3, trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    text: str = tokenizer.to_str()
    return text


def save_llama(
    directory: Path,
    *,
    model_type: str = "llama",
    dtype: str = "float32",
    max_shard_size: str = "5GB",
    **config: Any,
) -> Path:
    """Save a random checkpoint and its tokenizer as ``transformers`` does.

    Special tokens are never the likeliest unless embeddings are tied, so that a completion is as
    long as was asked for.

    Args:
        directory: Where to.
        model_type: ``llama`` or ``mistral``.
        dtype: Of the stored weights: ``float32``, ``float16`` or ``bfloat16``.
        max_shard_size: Size from which the weights are cut into several files.
        config: What differs from ``CONFIG``.
    """
    import torch
    import transformers

    settings = {**CONFIG, **config}
    kinds = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    }
    make_config, make_model = kinds[model_type]
    torch.manual_seed(7)
    model = make_model(make_config(**settings))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
        if not model.config.tie_word_embeddings:
            model.lm_head.weight[: len(SPECIALS)] = 0.0
    model.generation_config.eos_token_id = settings["eos_token_id"]
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=max_shard_size)
    (directory / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    options = {"chat_template": CHAT_TEMPLATE, "eos_token": SPECIALS[IM_END]}
    (directory / "tokenizer_config.json").write_text(json.dumps(options), encoding="utf-8")
    return directory


def copy_of(checkpoint: Path, directory: Path) -> Path:
    """Copy a checkpoint, for a test to damage."""
    return Path(shutil.copytree(checkpoint, directory / checkpoint.name))


def load_reference(checkpoint: Path) -> Any:
    """Open a checkpoint with ``transformers``, in float32."""
    import torch
    import transformers

    torch.set_num_threads(1)  # a second one costs more than it brings at these sizes
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval()


def with_weights(model: Any, weights: Mapping[str, NDArray[np.float32]]) -> Any:
    """Replace a reference model's weights by those of the same names."""
    import torch

    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(name).copy_(torch.tensor(weight))
    return model


def reference_logits(model: Any, ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the logits after each of ``ids``: ``float32[len(ids), vocab]``."""
    import torch

    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.tensor([list(ids)])).logits[0].numpy()
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


def save_gguf(
    file: Path,
    checkpoint: Path,
    kind: str = "Q4_1",
    *,
    embedding_kind: str = "Q8_0",
    kinds: Mapping[str, str] | None = None,
    fields: Mapping[str, Any] | None = None,
    rope_divisors: Sequence[float] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Write a safetensors checkpoint as llama.cpp's converter would.

    Args:
        file: The file to write.
        checkpoint: A directory made by :func:`save_llama`.
        kind: Type of the matrices, a name of ``gguf.GGMLQuantizationType``.
        embedding_kind: Type of the embedding and the output projection.
        kinds: Types of single tensors, by their name in the file.
        fields: Metadata to add or replace; ``None`` leaves a key out.
        rope_divisors: Values of a ``rope_freqs.weight`` tensor.

    Returns:
        What the file's weights stand for, by the checkpoint's names for them.
    """
    from safetensors.numpy import load_file

    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    for key, value in {**_metadata(config), **(fields or {})}.items():
        _add_field(writer, key, value)
    stands_for: dict[str, NDArray[np.float32]] = {}
    for name, weight in load_file(checkpoint / "model.safetensors").items():
        stored = _gguf_name(name)
        chosen = "F32" if weight.ndim == 1 else kind
        if stored in ("token_embd.weight", "output.weight"):
            chosen = embedding_kind
        element = gguf.GGMLQuantizationType[(kinds or {}).get(stored, chosen)]
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        written = weight
        for projection, count in heads.items():
            if projection in name:
                written = _pairs_together(weight, config[count])
        writer.add_tensor(stored, gguf.quantize(written, element), raw_dtype=element)
        # Blocks lie within rows, so that the order of rows does not matter to their values.
        stands_for[name] = gguf.dequantize(gguf.quantize(weight, element), element).astype(
            np.float32
        )
    if rope_divisors is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(rope_divisors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stands_for


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    model = json.loads(tokenizer_json())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    heads = config["num_attention_heads"]
    return {
        "general.name": "tiny",
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.key_length": config.get("head_dim") or config["hidden_size"] // heads,
        "llama.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "llama.rope.freq_base": float(config["rope_theta"]),
        "llama.vocab_size": config["vocab_size"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIALS else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": IM_START,
        "tokenizer.ggml.eos_token_id": IM_END,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _add_field(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value is not None:
        writer.add_array(key, value)


def _gguf_name(name: str) -> str:
    outer = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in outer:
        return outer[name]
    _, _, layer, inner = name.split(".", 3)
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    return f"blk.{layer}.{parts[inner.removesuffix('.weight')]}.weight"


def _pairs_together(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Lay rows of each head that rotate against each other side by side."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
