"""The architectures that llama.cpp knows: what each makes of a plain decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.gguf_delta_net import with_delta_net
from rbee_export.checkpoint.gguf_granite import granite, granite_hybrid
from rbee_export.checkpoint.gguf_short_convolution import NAMES as LFM2
from rbee_export.checkpoint.gguf_short_convolution import with_convolutions
from rbee_export.checkpoint.hf_windows import rotated
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.checkpoint.rope import Rope, Yarn
from rbee_export.checkpoint.temperature import Temperature
from rbee_export.errors import CheckpointError, UnsupportedModel

Knobs = Callable[[DecoderConfig, Numbers], DecoderConfig]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One ``general.architecture``.

    Attributes:
        family: Row of the family table it belongs to.
        knobs: Turns the plain decoder's configuration into this family's.
        pairs_together: Rows of queries and keys that rotate against each other are neighbours.
        normalized: Whether it divides the weights of a token's experts by their sum; ``None`` for
            one without experts.
        shared: Whether every token gets another expert besides.
        clamped: Whether experts have biases and are clamped, as those of gpt-oss.
        sigmoid: Whether the weights of experts are sigmoids, as those of LFM2.
        names: Names of weights that differ from Llama's.
    """

    family: str
    knobs: Knobs
    pairs_together: bool = False
    normalized: bool | None = None
    shared: bool = False
    clamped: bool = False
    sigmoid: bool = False
    names: Mapping[str, str] = field(default_factory=dict)


def architecture_of(name: str, number: Numbers) -> Architecture:
    """Return what a name means: Llama's may be Mixtral's, Granite 4 may have no experts."""
    architecture = ARCHITECTURES[name]
    experts = number.whole("expert_count", 0)
    if name == "granitehybrid" and not experts:
        return replace(architecture, normalized=None)
    if architecture.normalized is not None or not experts:
        return architecture
    if name != "llama":
        raise UnsupportedModel(f"{number.source}: experts in {name} are not supported")
    return _MIXTRAL


def _windowed(
    c: DecoderConfig, number: Numbers, slides: Callable[[int], bool] = lambda _: True
) -> DecoderConfig:
    window = number.whole("attention.sliding_window", 0)
    if not 0 < window < c.context_length:
        return c
    attention = tuple(
        replace(a, window=window) if slides(i) else a for i, a in enumerate(c.attention)
    )
    return replace(c, attention=attention)


def _plain(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    return c


def _mistral3(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    beta = number.maybe("attention.temperature_scale")
    if beta is None:
        return c
    original = number.positions("rope.scaling.original_context_length")
    return replace(c, temperature=Temperature(beta, original))


def _qk_norm(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    return replace(c, qk_norm="head")


def _phi2(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    return replace(c, norm="layer", parallel=True, activation="gelu_tanh", gated=False)


def _phi3(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return _windowed(c, number)


def _gemma(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return replace(
        c,
        activation="gelu_tanh",
        embedding_scale=math.sqrt(number.factor("embedding_length")),
        overflows_fp16=True,
    )


def _gemma2(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    c = _capped_gemma(c, number, largest=46)
    return _windowed(c, number, lambda layer: layer % 2 == 0)


def _gemma3(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    every = max(number.whole("attention.sliding_window_pattern", 6), 1)
    c = replace(_capped_gemma(c, number, largest=62), qk_norm="head")
    # The base of the windowed layers is in the architecture, not in the files.
    rope = Rope(number.above(1, "rope.freq_base_swa", 10000.0), c.head_dim)
    attention = tuple(
        replace(a, rope=rope) if (i + 1) % every else a for i, a in enumerate(c.attention)
    )
    return _windowed(replace(c, attention=attention), number, lambda i: bool((i + 1) % every))


def _capped_gemma(c: DecoderConfig, number: Numbers, largest: int) -> DecoderConfig:
    # The largest model of each generation scales by another width; its files do not say so.
    width = c.hidden // c.heads if c.layers == largest else c.head_dim
    return replace(
        _gemma(c, number),
        post_norm=True,
        attention_scale=width**-0.5,
        attention_cap=number.maybe("attn_logit_softcapping"),
        logits_cap=number.maybe("final_logit_softcapping"),
    )


def _slides(c: DecoderConfig, number: Numbers, period: int) -> Sequence[bool]:
    """Return which layers have a window: all but every one of a period, or those listed."""
    pattern = number.settings.get("attention.sliding_window_pattern")
    if not isinstance(pattern, list):
        period = number.whole("attention.sliding_window_pattern", period)
        return [period > 0 and (i + 1) % period != 0 for i in range(c.layers)]
    if len(pattern) != c.layers:
        raise CheckpointError(
            f"{number.source}: {number.prefix}attention.sliding_window_pattern does not list "
            f"{c.layers} layers"
        )
    return [bool(slides) for slides in pattern]


def _windows_alone_rotate(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    if not number.whole("attention.sliding_window", 0):
        return c
    slides = _slides(c, number, 4)
    return _windowed(rotated(c, slides), number, slides.__getitem__)


def _smollm3(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    return rotated(c, [bool((i + 1) % 4) for i in range(c.layers)])


def _olmo2(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    c = replace(c, pre_norm=False, post_norm=True, qk_norm="whole")
    if not number.whole("attention.sliding_window", 0):
        return c
    # OLMo 3, whose windowed layers leave the scaling of the rotary embedding to the others.
    slides = _slides(c, number, 4)
    attention = tuple(
        replace(a, rope=replace(a.rope, scaling=None)) if slid and a.rope else a
        for a, slid in zip(c.attention, slides, strict=True)
    )
    return _windowed(replace(c, attention=attention), number, slides.__getitem__)


def _exaone4(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    c = replace(c, pre_norm=False, post_norm=True, qk_norm="head")
    return _windows_alone_rotate(c, number)


def _glm4(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    if number.settings.get("rope.dimension_sections"):
        # GLM-4.1V: converters put its rotary pairs apart.
        raise UnsupportedModel(
            f"{number.source}: {number.prefix}rope.dimension_sections is not supported"
        )
    return replace(c, post_norm=True, overflows_fp16=True)


def _hunyuan(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    return replace(c, qk_norm="head", qk_norm_last=True)


def _relu2(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    return replace(c, activation="relu2", gated=False)


def _nemotron(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return replace(_relu2(c, number), norm="layer")


def _starcoder2(c: DecoderConfig, _: Numbers) -> DecoderConfig:
    return replace(c, norm="layer", activation="gelu_tanh", gated=False)


def _stablelm(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    parallel = bool(number.settings.get("use_parallel_residual"))
    return replace(c, norm="layer", parallel=parallel)


def _cohere(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    scale = number.maybe("logit_scale") or 1.0
    return replace(c, norm="layer", norm_bias=False, parallel=True, logits_scale=scale)


def _cohere2(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return _windows_alone_rotate(_cohere(c, number), number)


def _olmoe(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    if number.maybe("attention.clamp_kqv"):
        raise UnsupportedModel(f"{number.source}: olmoe.attention.clamp_kqv is not supported")
    return replace(c, qk_norm="whole")


def _qwen3_next(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return with_delta_net(c, number, tiled=False)


def _qwen3_5(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    return with_delta_net(c, number, tiled=True)


def _gpt_oss(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    # Files say neither which layers have a window, nor that nothing of YaRN is truncated.
    attention = tuple(replace(a, rope=_not_truncated(a.rope), sinks=True) for a in c.attention)
    return _windowed(replace(c, attention=attention), number, lambda layer: layer % 2 == 0)


def _not_truncated(rope: Rope | None) -> Rope | None:
    if rope is None or not isinstance(rope.scaling, Yarn):
        return rope
    return replace(rope, scaling=replace(rope.scaling, truncate=False))


_OSS = {"mlp_norm": "post_attention_norm"}
_MIXTRAL = Architecture("mixtral", _plain, pairs_together=True, normalized=True)
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture("llama", _plain, pairs_together=True),
        "mistral3": Architecture("ministral3", _mistral3, pairs_together=True),
        "qwen2": Architecture("qwen2", _plain),
        "qwen2vl": Architecture("qwen2", _plain),
        "qwen3": Architecture("qwen3", _qk_norm),
        "qwen3vl": Architecture("qwen3", _qk_norm),
        "phi2": Architecture("phi", _phi2),
        "phi3": Architecture("phi3", _phi3),
        "gemma": Architecture("gemma", _gemma),
        "gemma2": Architecture("gemma2", _gemma2),
        "gemma3": Architecture("gemma3", _gemma3),
        "smollm3": Architecture("smollm3", _smollm3, pairs_together=True),
        "granite": Architecture("granite", granite, pairs_together=True),
        "olmo2": Architecture("olmo2", _olmo2),
        "exaone4": Architecture("exaone4", _exaone4),
        "seed_oss": Architecture("seed_oss", _plain, names=_OSS),
        "arcee": Architecture("arcee", _relu2, pairs_together=True),
        "ernie4_5": Architecture("ernie4_5", _plain, pairs_together=True),
        "chatglm": Architecture("glm", _plain, pairs_together=True),
        "glm4": Architecture("glm4", _glm4, pairs_together=True),
        "hunyuan-dense": Architecture("hunyuan_v1_dense", _hunyuan),
        "command-r": Architecture("cohere", _cohere, pairs_together=True),
        "cohere2": Architecture("cohere2", _cohere2, pairs_together=True),
        "starcoder2": Architecture("starcoder2", _starcoder2),
        "stablelm": Architecture("stablelm", _stablelm),
        "nemotron": Architecture("nemotron", _nemotron),
        "qwen2moe": Architecture("qwen2_moe", _plain, normalized=False, shared=True),
        "qwen3moe": Architecture("qwen3_moe", _qk_norm, normalized=True),
        "olmoe": Architecture("olmoe", _olmoe, normalized=False),
        "gpt-oss": Architecture("gpt_oss", _gpt_oss, normalized=True, clamped=True, names=_OSS),
        "granitemoe": Architecture("granitemoe", granite, pairs_together=True, normalized=True),
        "granitehybrid": Architecture(
            "granitemoehybrid", granite_hybrid, pairs_together=True, normalized=True
        ),
        "qwen3next": Architecture("qwen3_next", _qwen3_next, normalized=True, shared=True),
        "qwen35": Architecture("qwen3_5", _qwen3_5),
        "qwen35moe": Architecture("qwen3_5_moe", _qwen3_5, normalized=True, shared=True),
        "lfm2": Architecture("lfm2", with_convolutions, names=LFM2),
        "lfm2moe": Architecture(
            "lfm2_moe", with_convolutions, normalized=True, sigmoid=True, names=LFM2
        ),
    }
)
"""What ``general.architecture`` may be, and what it means."""

PAIRS_TOGETHER = frozenset(
    a.family for a in (*ARCHITECTURES.values(), _MIXTRAL) if a.pairs_together
)
"""Families whose files hold rotary pairs of q and k next to each other."""

NAMES = MappingProxyType({a.family: a.names for a in ARCHITECTURES.values()})
"""Names of weights that differ from Llama's, by family."""
