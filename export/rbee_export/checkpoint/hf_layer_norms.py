"""What families with layer norms make of a plain decoder's configuration."""

from __future__ import annotations

from dataclasses import replace

from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.hf_windows import windowed, windows_alone_rotate
from rbee_export.checkpoint.numbers import Numbers
from rbee_export.errors import UnsupportedModel


def phi(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Branches are parallel, and norms those of layers."""
    if number.settings.get("qk_layernorm"):
        raise UnsupportedModel(f"{number.source}: qk_layernorm is not supported for phi")
    return replace(
        c,
        norm="layer",
        norm_epsilon=number.real("layer_norm_eps", 1e-5),
        parallel=True,
        activation="gelu_tanh",
        gated=False,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        head_bias=True,
    )


def cohere(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Branches are parallel, norms those of layers without biases, logits scaled."""
    if number.settings.get("use_qk_norm"):
        raise UnsupportedModel(f"{number.source}: use_qk_norm is not supported for cohere")
    return replace(
        c,
        norm="layer",
        norm_bias=False,
        norm_epsilon=number.real("layer_norm_eps", 1e-5),
        parallel=True,
        logits_scale=number.real("logit_scale", 0.0625),
    )


def cohere2(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Three of four layers have a window, the others no positions."""
    return windows_alone_rotate(cohere(c, number), number)


def starcoder2(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Norms are those of layers, MLPs plain; one setting gives every projection a bias."""
    biased = bool(number.settings.get("use_bias", True))
    c = replace(
        c,
        norm="layer",
        norm_epsilon=number.real("norm_epsilon", 1e-5),
        activation="gelu_tanh",
        gated=False,
        qkv_bias=biased,
        o_bias=biased,
        mlp_bias=biased,
    )
    return windowed(c, number, lambda _: True)


def stablelm(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Norms are those of layers; branches may be parallel."""
    if number.settings.get("qk_layernorm"):
        raise UnsupportedModel(f"{number.source}: qk_layernorm is not supported for stablelm")
    return replace(
        c,
        norm="layer",
        norm_epsilon=number.real("layer_norm_eps", 1e-5),
        parallel=bool(number.settings.get("use_parallel_residual")),
        qkv_bias=bool(number.settings.get("use_qkv_bias")),
        o_bias=False,
    )


def nemotron(c: DecoderConfig, number: Numbers) -> DecoderConfig:
    """Norms are those of layers; MLPs are plain, and square their activation."""
    epsilon = number.real("norm_eps", 1e-5)
    return replace(c, norm="layer", norm_epsilon=epsilon, activation="relu2", gated=False)
