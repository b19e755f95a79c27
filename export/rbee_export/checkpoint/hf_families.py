"""The families that ``transformers`` knows: what each ``model_type`` makes of a plain decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from rbee_export.checkpoint import hf_knobs as knobs
from rbee_export.checkpoint import hf_layer_norms as layer_norms
from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.hf_delta_net import QWEN3_5, QWEN3_5_MOE, QWEN3_NEXT, with_delta_net
from rbee_export.checkpoint.hf_experts import GRANITE, MIXTRAL, QWEN
from rbee_export.checkpoint.hf_gpt_oss import NAMES as GPT_OSS
from rbee_export.checkpoint.hf_gpt_oss import gpt_oss
from rbee_export.checkpoint.hf_granite_hybrid import GRANITE_HYBRID, GRANITE_SHARED
from rbee_export.checkpoint.hf_short_convolution import LFM2, LFM2_MOE, lfm2, lfm2_moe
from rbee_export.checkpoint.hf_short_convolution import SETTINGS as LFM2_SETTINGS
from rbee_export.checkpoint.numbers import Numbers

_POST_NORMS = {
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
_GLM_NORMS = {
    "attention_post_norm": "post_self_attn_layernorm",
    "mlp_post_norm": "post_mlp_layernorm",
}
_PHI = {
    "o": "self_attn.dense",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
    "final_norm": "final_layernorm",
}
_STARCODER = {"up": "mlp.c_fc", "down": "mlp.c_proj"}
_HUNYUAN = {"q_norm": "self_attn.query_layernorm", "k_norm": "self_attn.key_layernorm"}
FUSED: Mapping[str, str] = {
    **dict.fromkeys(("q", "k", "v"), "self_attn.qkv_proj"),
    **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
}
_GATE_UP = {name: FUSED[name] for name in ("gate", "up")}
_SILUS = ("silu", "swish")
_GELUS = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")


@dataclass(frozen=True, slots=True)
class Family:
    """One ``model_type``.

    Attributes:
        knobs: Turns the plain decoder's configuration into this family's.
        names: Names of weights that differ from Llama's.
        tied: Whether the embedding is the output projection where the configuration is silent.
        norm_offset: What a stored norm weight lacks.
        theta: Rotary base where the configuration is silent.
        rotary_share: Part of each head that is rotated where the configuration is silent.
        activations: Names the configuration may give to the family's activation.
        pairs_together: Rows of queries and keys that rotate against each other are neighbours.
        settings: What other families call settings that go by names of its own.
    """

    knobs: Callable[[DecoderConfig, Numbers], DecoderConfig]
    names: Mapping[str, str] = field(default_factory=dict)
    tied: bool = False
    norm_offset: float = 0.0
    theta: float = 10000.0
    rotary_share: float = 1.0
    activations: tuple[str, ...] = _SILUS
    pairs_together: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


# The first Gemmas say ``gelu`` and mean its approximation.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family(knobs.llama),
        "mistral": Family(knobs.mistral),
        "ministral": Family(knobs.mistral),
        "ministral3": Family(knobs.ministral3, theta=1e6),
        "qwen2": Family(knobs.qwen2),
        "qwen2_vl_text": Family(knobs.qwen2, theta=1e6),
        "qwen2_5_vl_text": Family(knobs.qwen2, theta=1e6),
        "qwen3": Family(knobs.qwen3),
        "qwen3_vl_text": Family(knobs.qwen3, theta=5e6),
        "phi": Family(layer_norms.phi, _PHI, rotary_share=0.5, activations=_GELUS),
        "phi3": Family(knobs.mistral, FUSED),
        "gemma": Family(knobs.gemma, tied=True, norm_offset=1.0, activations=(*_GELUS, "gelu")),
        "gemma2": Family(knobs.gemma2, _POST_NORMS, tied=True, norm_offset=1.0, activations=_GELUS),
        "gemma3_text": Family(
            knobs.gemma3, _POST_NORMS, tied=True, norm_offset=1.0, theta=1e6, activations=_GELUS
        ),
        "smollm3": Family(knobs.smollm3, tied=True, theta=2e6),
        "granite": Family(knobs.granite),
        "olmo2": Family(knobs.olmo2, _POST_NORMS),
        "olmo3": Family(knobs.olmo3, _POST_NORMS),
        "exaone4": Family(knobs.exaone4, _POST_NORMS),
        "seed_oss": Family(knobs.seed_oss),
        "arcee": Family(knobs.arcee, activations=("relu2",)),
        "ernie4_5": Family(knobs.ernie4_5, tied=True, theta=5e5, pairs_together=True),
        "glm": Family(knobs.glm, _GATE_UP, rotary_share=0.5, pairs_together=True),
        "glm4": Family(
            knobs.glm4, {**_GATE_UP, **_GLM_NORMS}, rotary_share=0.5, pairs_together=True
        ),
        "hunyuan_v1_dense": Family(knobs.hunyuan, _HUNYUAN),
        "helium": Family(knobs.helium, theta=1e5, pairs_together=True),
        "cohere": Family(layer_norms.cohere, tied=True, pairs_together=True),
        "cohere2": Family(layer_norms.cohere2, tied=True, pairs_together=True),
        "starcoder2": Family(layer_norms.starcoder2, _STARCODER, tied=True, activations=_GELUS),
        "stablelm": Family(layer_norms.stablelm, rotary_share=0.25),
        "nemotron": Family(
            layer_norms.nemotron, norm_offset=1.0, rotary_share=0.5, activations=("relu2",)
        ),
        "mixtral": Family(knobs.mixtral, MIXTRAL, theta=1e6),
        "qwen2_moe": Family(knobs.qwen2_moe, QWEN),
        "qwen3_moe": Family(knobs.qwen3_moe, QWEN),
        "olmoe": Family(knobs.olmoe, QWEN),
        "granitemoe": Family(knobs.granite_moe, GRANITE),
        "granitemoeshared": Family(knobs.granite_shared, GRANITE_SHARED),
        "granitemoehybrid": Family(knobs.granite_hybrid, GRANITE_HYBRID),
        "qwen3_next": Family(knobs.qwen3_next, QWEN3_NEXT, norm_offset=1.0, rotary_share=0.25),
        "qwen3_5_text": Family(with_delta_net, QWEN3_5, norm_offset=1.0, rotary_share=0.25),
        "qwen3_5_moe_text": Family(
            knobs.qwen3_next, QWEN3_5_MOE, norm_offset=1.0, rotary_share=0.25
        ),
        "lfm2": Family(lfm2, LFM2, tied=True, theta=1e6, settings=LFM2_SETTINGS),
        "lfm2_moe": Family(lfm2_moe, LFM2_MOE, tied=True, theta=1e6, settings=LFM2_SETTINGS),
        "gpt_oss": Family(gpt_oss, GPT_OSS, theta=150000.0),
    }
)
"""What ``model_type`` may be, and what it means."""
