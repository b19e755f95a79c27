"""How ``transformers`` lays each family of encoders out: its ``config.json``, and its names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rbee_export.checkpoint.encoder_config import EncoderActivation, EncoderConfig
from rbee_export.checkpoint.layout import Stored, split_name
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import CheckpointError, UnsupportedModel, shown

_ACTIVATIONS: Mapping[str, EncoderActivation] = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_python": "gelu",
        **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), "gelu_tanh"),
        "relu": "relu",
        **dict.fromkeys(("silu", "swish"), "silu"),
    }
)
_BERT_CONFIG = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "activation": "hidden_act",
}
_BERT_NAMES = {
    "embedding": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "token_type": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "q": "encoder.layer.{}.attention.self.query",
    "k": "encoder.layer.{}.attention.self.key",
    "v": "encoder.layer.{}.attention.self.value",
    "o": "encoder.layer.{}.attention.output.dense",
    "attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "up": "encoder.layer.{}.intermediate.dense",
    "down": "encoder.layer.{}.output.dense",
    "mlp_norm": "encoder.layer.{}.output.LayerNorm",
}
_DISTILBERT_CONFIG = {
    "layers": "n_layers",
    "hidden": "dim",
    "intermediate": "hidden_dim",
    "heads": "n_heads",
    "activation": "activation",
}
_DISTILBERT_NAMES = {
    "embedding": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "q": "transformer.layer.{}.attention.q_lin",
    "k": "transformer.layer.{}.attention.k_lin",
    "v": "transformer.layer.{}.attention.v_lin",
    "o": "transformer.layer.{}.attention.out_lin",
    "attention_norm": "transformer.layer.{}.sa_layer_norm",
    "up": "transformer.layer.{}.ffn.lin1",
    "down": "transformer.layer.{}.ffn.lin2",
    "mlp_norm": "transformer.layer.{}.output_layer_norm",
}
_OLD_SUFFIXES = {"weight": "gamma", "bias": "beta"}
"""What the first BERTs call the two parts of a norm."""


@dataclass(frozen=True, slots=True)
class EncoderFamily:
    """One ``model_type``.

    Attributes:
        stem: What names begin with where the encoder was saved with a head.
        config: Names of its settings.
        names: Names of its weights; ``{}`` stands for the layer.
        counts_from_padding: Positions begin after the row of the padding token (RoBERTa).
        token_types: It has a table of token types.
    """

    stem: str
    config: Mapping[str, str] = field(default_factory=lambda: _BERT_CONFIG)
    names: Mapping[str, str] = field(default_factory=lambda: _BERT_NAMES)
    counts_from_padding: bool = False
    token_types: bool = True


def read_encoder_config(file: Path, settings: Mapping[str, Any]) -> EncoderConfig:
    """Read a ``config.json`` whose ``model_type`` is one of :data:`ENCODERS`.

    Raises:
        CheckpointError: It contradicts itself.
        UnsupportedModel: Something it asks for is not known here.
    """
    kind = str(settings.get("model_type"))
    family = ENCODERS[kind]
    number, names = Numbers(str(file), settings), family.config
    if settings.get("is_decoder"):
        raise UnsupportedModel(f"{file.parent}: a {kind} that is a decoder is not supported")
    positions = settings.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UnsupportedModel(
            f"{file.parent}: position embeddings {shown(positions)} are not supported for {kind}"
        )
    act = settings.get(names["activation"], "gelu")
    if not isinstance(act, str) or act not in _ACTIVATIONS:
        raise UnsupportedModel(
            f"{file.parent}: activation {shown(act)} is not supported for {kind}"
        )
    first = number.whole("pad_token_id", 1) + 1 if family.counts_from_padding else 0
    hidden, heads = number.whole(names["hidden"]), number.whole(names["heads"])
    context_length = number.positions("max_position_embeddings", 512) - first
    if first < 0 or context_length < 1:
        raise CheckpointError(f"{file}: pad_token_id leaves no row of the position table")
    if heads < 1 or hidden < 1 or hidden % heads:
        raise CheckpointError(f"{file}: {hidden} cannot be cut into {heads} heads")
    return EncoderConfig(
        family=kind,
        layers=number.layers(names["layers"]),
        hidden=hidden,
        intermediate=_above_zero(number, names["intermediate"]),
        heads=heads,
        vocab=_above_zero(number, "vocab_size"),
        context_length=context_length,
        norm_epsilon=number.above(0, "layer_norm_eps", 1e-12),
        activation=_ACTIVATIONS[act],
        first_position=first,
        token_types=family.token_types and number.whole("type_vocab_size", 2) > 0,
    )


def locate_in_encoder(name: str, c: EncoderConfig, stored: Collection[str]) -> Stored:
    """Return where the weight of a canonical name is kept, among the names that there are."""
    family = ENCODERS[c.family]
    layer, short, suffix = split_name(name)
    plain = family.names[short].format(layer)
    rows = None
    if short == "positions":
        rows = slice(c.first_position, c.first_position + c.context_length)
    elif short == "token_type":
        rows = slice(0, 1)
    suffixes = (suffix, _OLD_SUFFIXES[suffix]) if short.endswith("norm") else (suffix,)
    for stem in ("", family.stem):
        for ending in suffixes:
            if f"{stem}{plain}.{ending}" in stored:
                return Stored(f"{stem}{plain}.{ending}", rows)
    return Stored(f"{plain}.{suffix}", rows)


def _above_zero(number: Numbers, key: str) -> int:
    value = number.whole(key)
    if value < 1:
        raise CheckpointError(f"{number.source}: {key} is {value}")
    return value


_ROBERTA = EncoderFamily("roberta.", counts_from_padding=True)
ENCODERS: Mapping[str, EncoderFamily] = MappingProxyType(
    {
        "bert": EncoderFamily("bert."),
        "roberta": _ROBERTA,
        "xlm-roberta": _ROBERTA,
        "camembert": _ROBERTA,
        "distilbert": EncoderFamily(
            "distilbert.", _DISTILBERT_CONFIG, _DISTILBERT_NAMES, token_types=False
        ),
    }
)
"""What ``model_type`` may be, and what it means."""
