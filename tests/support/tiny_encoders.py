"""Small random encoders, in the layouts of transformers and of sentence-transformers."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from .tiny_tokenizer import LINES

VOCAB = 384
CONTEXT = 128
_BERT: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "type_vocab_size": 2,
    # Far wider than models start with, so that attention attends.
    "initializer_range": 0.2,
    "layer_norm_eps": 1e-5,
}
_ROBERTA: Mapping[str, Any] = {
    **_BERT,
    "max_position_embeddings": CONTEXT + 2,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}
WINDOW = 16
_MODERNBERT: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "local_attention": WINDOW,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "cls_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
    "reference_compile": False,
}
ENCODERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bert": ("bert", _BERT),
    "bert-odd": ("bert", {**_BERT, "num_hidden_layers": 3, "intermediate_size": 160}),
    "bert-gelu-new": ("bert", {**_BERT, "hidden_act": "gelu_new", "layer_norm_eps": 0.1}),
    "bert-relu": ("bert", {**_BERT, "hidden_act": "relu"}),
    "bert-silu": ("bert", {**_BERT, "hidden_act": "silu"}),
    "roberta": ("roberta", _ROBERTA),
    "xlm-roberta": ("xlm-roberta", _ROBERTA),
    "camembert": ("camembert", _ROBERTA),
    "distilbert": (
        "distilbert",
        {
            "vocab_size": VOCAB,
            "dim": 64,
            "hidden_dim": 128,
            "n_layers": 2,
            "n_heads": 4,
            "max_position_embeddings": CONTEXT,
            "initializer_range": 0.2,
        },
    ),
    "modernbert": ("modernbert", _MODERNBERT),
    "modernbert-wide": (
        "modernbert",
        {**_MODERNBERT, "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 2},
    ),
    "modernbert-biases": (
        "modernbert",
        {
            **_MODERNBERT,
            "attention_bias": True,
            "mlp_bias": True,
            "norm_bias": True,
            "hidden_activation": "silu",
            "local_rope_theta": None,
        },
    ),
    "mpnet": ("mpnet", {**_BERT, "max_position_embeddings": CONTEXT + 2}),
    # With heads as wide as real ones.
    "mpnet-wide": (
        "mpnet",
        {**_BERT, "hidden_size": 256, "max_position_embeddings": CONTEXT + 2},
    ),
}
"""By name: ``model_type``, and what is not the type's default."""

WORDPIECE = ("bert", "distilbert", "mpnet")
_BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_TOKENS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
_MPNET_TOKENS = ("<pad>", "[UNK]", "<s>", "</s>", "<mask>")


def save_encoder(
    directory: Path,
    name: str = "bert",
    *,
    modules: Sequence[str] | None = ("Transformer", "Pooling", "Normalize"),
    pooling: Mapping[str, Any] | None = None,
    dense: Sequence[Mapping[str, Any]] = (),
    head: str = "AutoModel",
    dtype: str = "float32",
    **changed: Any,
) -> Path:
    """Save random weights and a tokenizer as ``transformers`` does.

    Norms are drawn around one, biases around zero.

    Args:
        directory: Where to.
        name: One of ``ENCODERS``.
        modules: Those of sentence-transformers to list; ``None`` for a plain directory.
        pooling: Settings of the second; the mean by default.
        dense: Settings of those called ``Dense``.
        head: The class to save it as; one with a head gives weights a prefix.
        dtype: Of the stored weights.
        changed: Configuration that differs from the encoder's.
    """
    kind, config = ENCODERS[name]
    save_weights(directory, kind, {**config, **changed}, head=head, dtype=dtype)
    save_tokenizer(directory, kind)
    if modules is not None:
        save_modules(directory, modules, pooling or {"pooling_mode_mean_tokens": True}, dense)
    return directory


def save_weights(
    directory: Path,
    kind: str,
    config: Mapping[str, Any],
    *,
    head: str,
    dtype: str,
    neutral: float = 1.0,
) -> None:
    """Save random weights and their configuration, norms drawn around their neutral value."""
    import torch
    import transformers

    torch.manual_seed(7)
    made = transformers.AutoConfig.for_model(kind, **config)
    model = getattr(transformers, head).from_config(made)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                weight.uniform_(neutral - 0.5, neutral + 0.5)
            elif name.endswith("bias"):
                weight.uniform_(-0.5, 0.5)
    model.to(getattr(torch, dtype)).save_pretrained(directory)


def save_modules(
    directory: Path,
    modules: Sequence[str],
    pooling: Mapping[str, Any],
    dense: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the files of sentence-transformers.

    Args:
        directory: Where to.
        modules: Those to list.
        pooling: Settings of the second.
        dense: Settings of those called ``Dense``, whose weights are random.
    """
    folders = ["", *(f"{i}_{module}" for i, module in enumerate(modules[1:], 1))]
    listed = [
        {"idx": i, "name": str(i), "path": folder, "type": f"sentence_transformers.models.{module}"}
        for i, (module, folder) in enumerate(zip(modules, folders, strict=True))
    ]
    write_json(directory / "modules.json", listed)
    settings = iter(dense)
    for module, folder in zip(modules, folders, strict=True):
        if module == "Pooling":
            write_json(directory / folder / "config.json", pooling)
        elif module == "Dense":
            save_dense(directory / folder, next(settings))


def save_dense(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a dense layer, and random weights that fit them."""
    write_json(folder / "config.json", settings)
    draw = np.random.default_rng(settings["out_features"])
    shape = (settings["out_features"], settings["in_features"])
    weights = {"linear.weight": draw.standard_normal(shape, np.float32) / np.float32(8)}
    if settings["bias"]:
        weights["linear.bias"] = draw.standard_normal(shape[0], np.float32)
    save_file(weights, folder / "model.safetensors")


def write_json(file: Path, content: object) -> None:
    """Write a JSON file, in a folder of its own if need be."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def save_tokenizer(directory: Path, kind: str) -> None:
    """Write the tokenizer's files of a ``model_type``."""
    specials = _ROBERTA_TOKENS
    options: dict[str, Any] = {"tokenizer_class": "RobertaTokenizer"}
    if kind in WORDPIECE:
        specials = _MPNET_TOKENS if kind == "mpnet" else _BERT_TOKENS
        cls = "MPNetTokenizer" if kind == "mpnet" else "BertTokenizer"
        options = {"tokenizer_class": cls, "do_lower_case": True}
    text = word_pieces(specials) if kind in WORDPIECE else byte_pairs()
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")
    roles = ("pad", "unk", "cls", "sep", "mask")
    options |= {f"{role}_token": token for role, token in zip(roles, specials, strict=True)}
    write_json(directory / "tokenizer_config.json", options)


@functools.cache
def word_pieces(specials: tuple[str, ...]) -> str:
    """Return a tokenizer of BERT's kind, serialised."""
    _, unknown, first, last, _ = specials
    tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB, special_tokens=list(specials), show_progress=False
    )
    tokenizer.train_from_iterator(LINES * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    return str(tokenizer.to_str())


@functools.cache
def byte_pairs() -> str:
    """Return a tokenizer of RoBERTa's kind, serialised."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES * 3, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", tokenizer.token_to_id("</s>")), ("<s>", tokenizer.token_to_id("<s>"))
    )
    return str(tokenizer.to_str())


def load_encoder(checkpoint: Path) -> Any:
    """Open a checkpoint with ``transformers``, in float32."""
    import torch
    import transformers

    torch.set_num_threads(1)  # a second one costs more than it brings at these sizes
    # Faster attention leaves out what some decoders do to scores.
    model = transformers.AutoModel.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def hidden_states(model: Any, ids: Sequence[int]) -> NDArray[np.float32]:
    """Return a reference model's last hidden states of a text: ``float32[len(ids), hidden]``."""
    import torch

    with torch.inference_mode():
        states: NDArray[np.float32] = model(torch.tensor([list(ids)])).last_hidden_state[0].numpy()
    return states
