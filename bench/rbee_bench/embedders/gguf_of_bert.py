"""A BERT model as a GGUF file, as llama.cpp reads it."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

_POOLING = {"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS}
_PLAIN = ("token_types.weight", "position_embd.weight")


def save_gguf(encoder: Path, file: Path, pooling: str) -> None:
    """Write a BERT model of transformers, its matrices in 16 bits.

    Args:
        encoder: Its directory.
        file: Where to.
        pooling: How llama.cpp is to make one vector of a text's.

    Raises:
        ValueError: It is another model, or pools otherwise.
    """
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "bert" or pooling not in _POOLING:
        raise ValueError("a GGUF file is made here only of BERT models with mean or CLS pooling")
    writer = gguf.GGUFWriter(file, "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(_POOLING[pooling])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_vocabulary(writer, encoder)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, weight in load_file(encoder / "model.safetensors").items():
        known = names.get_name(name.removeprefix("bert."), try_suffixes=(".weight", ".bias"))
        if known is None:  # position numbers, and the head for the first token
            continue
        matrix = weight.ndim == 2 and known not in _PLAIN
        writer.add_tensor(known, weight.astype(np.float16 if matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, encoder: Path) -> None:
    """Write WordPiece's pieces: those that begin a word are marked, where BERT marks the others."""
    serialised = json.loads((encoder / "tokenizer.json").read_text(encoding="utf-8"))
    numbers: dict[str, int] = serialised["model"]["vocab"]
    special = {each["content"] for each in serialised["added_tokens"]}
    pieces, types = [], []
    for piece in sorted(numbers, key=numbers.__getitem__):
        control = piece in special
        types.append(gguf.TokenType.CONTROL if control else gguf.TokenType.NORMAL)
        whole = piece if control else f"▁{piece}"
        pieces.append(piece.removeprefix("##") if piece.startswith("##") else whole)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    writer.add_token_type_count(2)
    writer.add_unk_token_id(numbers["[UNK]"])
    writer.add_bos_token_id(numbers["[CLS]"])
    writer.add_sep_token_id(numbers["[SEP]"])
    writer.add_pad_token_id(numbers["[PAD]"])
    writer.add_mask_token_id(numbers["[MASK]"])
