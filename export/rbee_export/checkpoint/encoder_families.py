"""The families of encoders: what each ``model_type`` makes of a plain one, and its names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rbee_export.checkpoint.encoder_config import (
    EncoderActivation,
    EncoderConfig,
    RotaryAttention,
)
from rbee_export.checkpoint.hf_rope import read_rope
from rbee_export.checkpoint.hf_windows import which_slide
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.checkpoint.relative_positions import BUCKETS
from rbee_export.checkpoint.rope import Rope
from rbee_export.errors import CheckpointError, UnsupportedModel, shown

GATED: Mapping[str, EncoderActivation] = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_python": "gelu",
        **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), "gelu_tanh"),
        **dict.fromkeys(("silu", "swish"), "silu"),
    }
)
_ACTIVATIONS: Mapping[str, EncoderActivation] = MappingProxyType({**GATED, "relu": "relu"})
_BERT_CONFIG = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "context": "max_position_embeddings",
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
    **_BERT_CONFIG,
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
_MPNET_NAMES = {
    **_BERT_NAMES,
    "distances": "encoder.relative_attention_bias",
    **{short: f"encoder.layer.{{}}.attention.attn.{short}" for short in ("q", "k", "v", "o")},
    "attention_norm": "encoder.layer.{}.attention.LayerNorm",
}
_MODERNBERT_CONFIG = {**_BERT_CONFIG, "activation": "hidden_activation", "epsilon": "norm_eps"}
_MODERNBERT_NAMES = {
    "embedding": "embeddings.tok_embeddings",
    "embedding_norm": "embeddings.norm",
    **dict.fromkeys(("q", "k", "v"), "layers.{}.attn.Wqkv"),
    "o": "layers.{}.attn.Wo",
    "attention_norm": "layers.{}.attn_norm",
    # What is activated comes first.
    **dict.fromkeys(("gate", "up"), "layers.{}.mlp.Wi"),
    "down": "layers.{}.mlp.Wo",
    "mlp_norm": "layers.{}.mlp_norm",
    "final_norm": "final_norm",
}
_NOMIC_CONFIG = {
    "layers": "n_layer",
    "hidden": "n_embd",
    "intermediate": "n_inner",
    "heads": "n_head",
    "activation": "activation_function",
    "epsilon": "layer_norm_epsilon",
    "context": "n_positions",
}
_NOMIC_NAMES = {
    "embedding": "embeddings.word_embeddings",
    "token_type": "embeddings.token_type_embeddings",
    "embedding_norm": "emb_ln",
    **dict.fromkeys(("q", "k", "v"), "encoder.layers.{}.attn.Wqkv"),
    "o": "encoder.layers.{}.attn.out_proj",
    "attention_norm": "encoder.layers.{}.norm1",
    "up": "encoder.layers.{}.mlp.fc11",
    "gate": "encoder.layers.{}.mlp.fc12",
    "down": "encoder.layers.{}.mlp.fc2",
    "mlp_norm": "encoder.layers.{}.norm2",
}
_NOMIC_PLAIN: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "prenorm": (False,),
        "parallel_block": (False,),
        "use_rms_norm": (False, None),
        "causal": (False,),
        "rotary_emb_fraction": (1.0,),
        "rotary_emb_interleaved": (False,),
        "rotary_emb_scale_base": (None,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "num_experts": (0, None),
        "moe_every_n_layers": (0, None),
    }
)
"""What its settings may be."""


def _plain(c: EncoderConfig, _: Numbers) -> EncoderConfig:
    return c


@dataclass(frozen=True, slots=True)
class EncoderFamily:
    """One ``model_type``.

    Attributes:
        stem: What names begin with where the encoder was saved with a head.
        config: Names of its settings.
        names: Names of its weights; ``{}`` stands for the layer.
        first_position: Row of the first token; ``None`` for that after the padding token's.
        position_types: Its configuration may ask for other positions than those of a table; that
            of others may, too, but nobody listens.
        token_types: It has a table of token types.
        context: Tokens of a text at most where the configuration is silent.
        epsilon: Added to the variance where it is.
        activations: Names that the configuration may give to the activation.
        knobs: Turns a plain encoder's configuration into this family's.
    """

    stem: str
    config: Mapping[str, str] = field(default_factory=lambda: _BERT_CONFIG)
    names: Mapping[str, str] = field(default_factory=lambda: _BERT_NAMES)
    first_position: int | None = 0
    position_types: bool = True
    token_types: bool = True
    context: int = 512
    epsilon: float = 1e-12
    activations: Mapping[str, EncoderActivation] = field(default_factory=lambda: _ACTIVATIONS)
    knobs: Callable[[EncoderConfig, Numbers], EncoderConfig] = _plain


def _mpnet(c: EncoderConfig, number: Numbers) -> EncoderConfig:
    # Whatever the configuration says, transformers counts with so many.
    _require(number, "relative_attention_num_buckets", BUCKETS)
    return replace(c, relative=True)


def _modernbert(c: EncoderConfig, number: Numbers) -> EncoderConfig:
    far = number.above(1, "global_rope_theta", 160000.0)
    near = number.above(1, "local_rope_theta", far if _is_null(number, "local_rope_theta") else 1e4)
    window = number.positions("local_attention", 128)
    if window < 2:
        raise CheckpointError(f"{number.source}: local_attention {window} leaves no other token")
    everywhere = RotaryAttention(_rope(c, number, far, "full_attention"))
    nearby = RotaryAttention(_rope(c, number, near, "sliding_attention"), window // 2)
    return replace(
        c,
        positions=False,
        rotary=tuple(nearby if slides else everywhere for slides in _sliding(c, number)),
        pre_norm=True,
        gated=True,
        attention_bias=bool(number.settings.get("attention_bias")),
        mlp_bias=bool(number.settings.get("mlp_bias")),
        norm_bias=bool(number.settings.get("norm_bias")),
    )


def _nomic(c: EncoderConfig, number: Numbers) -> EncoderConfig:
    for key, known in _NOMIC_PLAIN.items():
        _require(number, key, *known)
    mlp_bias = bool(number.settings.get("mlp_fc1_bias", True))
    _require(number, "mlp_fc2_bias", mlp_bias)
    context_length = c.context_length
    if number.maybe("rotary_scaling_factor") is not None:
        # Longer texts turn by other angles.
        context_length = min(context_length, number.positions("max_trained_positions", 2048))
    padded = number.count("pad_vocab_size_multiple", 1 << 16, 1)
    _require_even_heads(c, number)
    rope = Rope(number.above(1, "rotary_emb_base", 10000.0), c.head_dim)
    return replace(
        c,
        vocab=-(-c.vocab // padded) * padded,
        context_length=context_length,
        positions=False,
        rotary=(RotaryAttention(rope),) * c.layers,
        gated=True,
        attention_bias=bool(number.settings.get("qkv_proj_bias", True)),
        mlp_bias=mlp_bias,
    )


def _sliding(c: EncoderConfig, number: Numbers) -> tuple[bool, ...]:
    """Return which layers of ModernBERT see what is near alone."""
    every = number.count("global_attn_every_n_layers", 1024, 3)
    kinds = number.settings.get("layer_types")
    if kinds is None:
        return tuple(layer % every != 0 for layer in range(c.layers))
    return which_slide(kinds, c.layers, number)


def _rope(c: EncoderConfig, number: Numbers, theta: float, kind: str) -> Rope:
    _require_even_heads(c, number)
    return read_rope(
        Path(number.source),
        number.settings,
        head_dim=c.head_dim,
        theta=theta,
        context_length=c.context_length,
        kind=kind,
    )


def _require_even_heads(c: EncoderConfig, number: Numbers) -> None:
    """Refuse heads that ONNX Runtime cannot turn on every device."""
    if c.head_dim % 8:
        raise UnsupportedModel(
            f"{Path(number.source).parent}: heads of {c.head_dim} are not supported for "
            f"{c.family}, whose width must be a multiple of 8"
        )


def _is_null(number: Numbers, key: str) -> bool:
    return key in number.settings and number.settings[key] is None


def _require(number: Numbers, key: str, *known: Any) -> None:
    """Refuse a setting that has another value than those known, the first where it is missing."""
    value = number.settings.get(key, known[0])
    if value not in known:
        raise UnsupportedModel(
            f"{Path(number.source).parent}: {key} {shown(value)} is not supported"
        )


_ROBERTA = EncoderFamily("roberta.", first_position=None)
ENCODERS: Mapping[str, EncoderFamily] = MappingProxyType(
    {
        "bert": EncoderFamily("bert."),
        "roberta": _ROBERTA,
        "xlm-roberta": _ROBERTA,
        "camembert": _ROBERTA,
        "distilbert": EncoderFamily(
            "distilbert.", _DISTILBERT_CONFIG, _DISTILBERT_NAMES, token_types=False
        ),
        # Its padding token is the second, whatever the configuration says.
        "mpnet": EncoderFamily(
            "mpnet.",
            names=_MPNET_NAMES,
            first_position=2,
            position_types=False,
            token_types=False,
            knobs=_mpnet,
        ),
        "modernbert": EncoderFamily(
            "model.",
            _MODERNBERT_CONFIG,
            _MODERNBERT_NAMES,
            position_types=False,
            token_types=False,
            context=8192,
            epsilon=1e-5,
            activations=GATED,
            knobs=_modernbert,
        ),
        # Their own code runs it; this is what that does with the settings they use.
        "nomic_bert": EncoderFamily(
            "bert.",
            _NOMIC_CONFIG,
            _NOMIC_NAMES,
            position_types=False,
            context=8192,
            activations=MappingProxyType({"swiglu": "silu", "geglu": "gelu"}),
            knobs=_nomic,
        ),
    }
)
"""What ``model_type`` may be, and what it means."""
