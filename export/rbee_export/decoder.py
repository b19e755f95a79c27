"""The model definition: a decoder-only transformer with the knobs its families turn.

Weights go by these names, each a matrix of ``[outputs, inputs]`` or a vector:

    embedding                            [vocab, hidden]
    layers.{i}.attention_norm            [hidden], where branches start with a norm
    layers.{i}.q, .k, .v                 [heads * head_dim, hidden], k and v with kv_heads
    layers.{i}.q_gate                    [heads * head_dim, hidden], where the outcome is gated
    layers.{i}.q_norm, .k_norm           [head_dim], or the whole width of queries and of keys
    layers.{i}.sinks                     [heads], where a layer has sinks
    layers.{i}.o                         [hidden, heads * head_dim]
    layers.{i}.delta_q, .delta_k         [key_heads * key_dim, hidden], where a layer has a DeltaNet
    layers.{i}.delta_v, .delta_z         [value_heads * value_dim, hidden], values and their gate
    layers.{i}.delta_b, .delta_a         [value_heads, hidden], for how much is written and kept
    layers.{i}.delta_conv                [channels, 1, taps], of queries, keys and values
    layers.{i}.delta_decay, .delta_step  [value_heads], below zero, and what ``a`` lacks
    layers.{i}.delta_norm                [value_dim]
    layers.{i}.delta_o                   [hidden, value_heads * value_dim]
    layers.{i}.conv_in                   [3 * hidden, hidden], where a layer has a short convolution
    layers.{i}.conv_filters              [hidden, 1, taps]
    layers.{i}.conv_o                    [hidden, hidden]
    layers.{i}.mamba_in                  [width + channels, hidden], where a layer has a state space
    layers.{i}.mamba_dt                  [mamba_heads, hidden]
    layers.{i}.mamba_conv                [channels, 1, taps], and mamba_conv_bias
    layers.{i}.mamba_decay, .mamba_step  [mamba_heads], below zero, and what ``dt`` lacks
    layers.{i}.mamba_skip                [mamba_heads]
    layers.{i}.mamba_norm                [width]
    layers.{i}.mamba_o                   [hidden, width]
    layers.{i}.attention_post_norm       [hidden], where branches end with a norm
    layers.{i}.mlp_norm                  [hidden]
    layers.{i}.gate, .up                 [intermediate, hidden], gate in gated MLPs only
    layers.{i}.down                      [hidden, intermediate]
    layers.{i}.mlp_post_norm             [hidden]
    layers.{i}.router                    [experts, hidden], where a layer has experts
    layers.{i}.choice_bias               [experts], where weights are sigmoids
    layers.{i}.expert_gate, .expert_up   [experts * their intermediate, hidden], one after another
    layers.{i}.expert_down               [experts * hidden, their intermediate]
    layers.{i}.shared_gate, .shared_up   [shared, hidden], where every token gets another expert
    layers.{i}.shared_down               [hidden, shared]
    layers.{i}.shared_router             [1, hidden]
    final_norm                           [hidden]
    lm_head                              [vocab, hidden], absent when tied to the embedding

A bias goes by the name of its matrix or layer norm with ``_bias`` appended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from rbee_export.checkpoint.config import (
    Activation,
    DecoderConfig,
    DeltaNet,
    Experts,
    Mamba2,
    Mixer,
    ShortConvolution,
)

V = TypeVar("V")


class Dialect(Protocol[V]):
    """The operations a decoder is made of; ``V`` is what stands for activations."""

    def embedding(self, name: str, rows: int) -> V:
        """Look the input tokens up in a table of ``rows`` vectors."""
        ...

    def norm(self, x: V, name: str) -> V:
        """Normalise each vector: RMS (Zhang & Sennrich 2019) or layer norm (Ba et al. 2016)."""
        ...

    def add(self, a: V, b: V) -> V:
        """Return ``a + b``."""
        ...

    def add_norm(self, residual: V, x: V, name: str) -> tuple[V, V]:
        """Return ``residual + x`` and its norm."""
        ...

    def scale(self, x: V, factor: float) -> V:
        """Return ``x * factor``."""
        ...

    def linear(self, x: V, columns: int, rows: Mapping[str, int], *, bias: bool) -> V:
        """Multiply by matrices of ``[rows[name], columns]``; their results stand side by side."""
        ...

    def attention(self, qkv: V, layer: int, norms: tuple[str, str] | None) -> V:
        """Norm queries and keys where ``norms`` names weights, rotate them, append keys and values
        to the layer's cache, attend causally.

        Where the layer has sinks, the softmax of each query's scores has the sink of its head among
        them, whose weight then counts for nothing.
        """
        ...

    def delta_net(self, qkvz: V, x: V, layer: int, net: DeltaNet) -> V:
        """Update the layer's state by each token and read it (Yang et al. 2024, arXiv:2412.06464).

        Queries, keys and values go through a causal convolution of each channel and SiLU; queries
        and keys are then brought to length 1, queries times ``key_dim ** -0.5`` besides. With
        ``b`` and ``a`` what two small matrices make of ``x``, each head of values has ``keep =
        exp(decay * softplus(a + step))``, ``write = sigmoid(b)`` and a state ``S`` of
        ``[key_dim, value_dim]``, zero before the first token, and for each token

            S = keep * S;  S = S + write * k (v - k S);  o = q S

        The outcome is the RMS norm of each head's ``o``, times ``silu(z)``.

        Args:
            qkvz: Queries, keys, values and what gates them, side by side.
            x: The tokens as the layer reads them, for ``b`` and ``a``.
            layer: The layer.
            net: Its dimensions.
        """
        ...

    def short_convolution(self, bcx: V, layer: int, net: ShortConvolution) -> V:
        """Return ``c * conv(b * x)``, and keep the latest ``b * x`` as the layer's state.

        The convolution is causal, of each channel by itself, as in LFM2 (Liquid AI 2025).

        Args:
            bcx: ``b``, ``c`` and ``x`` of each token, side by side.
            layer: The layer.
            net: Its dimensions.
        """
        ...

    def mamba(self, zxbc: V, x: V, layer: int, net: Mamba2) -> V:
        """Update the layer's state by each token and read it (Dao & Gu 2024, arXiv:2405.21060).

        ``x``, ``b`` and ``c`` go through a causal convolution of each channel, with a bias, and
        SiLU. With ``dt`` what a small matrix makes of the tokens, each head has ``dt = softplus(dt
        + step)`` and a state ``S`` of ``[state_dim, head_dim]``, zero before the first token, and
        for each token

            S = exp(decay * dt) * S + dt * b x;  o = c S + skip * x

        The outcome is the RMS norm of ``o * silu(z)``, of all heads together.

        Args:
            zxbc: What gates the outcome, and ``x``, ``b`` and ``c``, side by side.
            x: The tokens as the layer reads them, for ``dt``.
            layer: The layer.
            net: Its dimensions.
        """
        ...

    def activation(self, x: V, kind: Activation) -> V:
        """Apply an activation function."""
        ...

    def open_gate(self, y: V, gate: V) -> V:
        """Return ``y * sigmoid(gate)``."""
        ...

    def gated(
        self, x: V, columns: int, rows: Mapping[str, int], kind: Activation, *, bias: bool
    ) -> V:
        """Return ``activation(gate) * up``, of what two matrices make of ``x`` (Shazeer 2020)."""
        ...

    def experts(self, x: V, at: str, columns: int, experts: Experts) -> V:
        """Return what the experts that each token is given make of it (Shazeer et al. 2017).

        With ``p`` the softmax of the token's products with the router, it is given those of the
        ``active`` largest ``p``, the lower number of equal ones. The outcome is the sum of ``p *
        down(silu(gate x) * up x)``, ``p`` divided by the sum of those ``p`` where ``normalized``;
        where they are ``clamped`` or ``sigmoid``, otherwise, which
        :class:`~rbee_export.checkpoint.config.Experts` says.

        Args:
            x: The tokens, ``columns`` wide.
            at: What the names of the layer's weights begin with.
            columns: Their width, and that of the outcome.
            experts: The experts.
        """
        ...

    def let_through(self, y: V, x: V, name: str, columns: int) -> V:
        """Return ``y`` times the sigmoid of each token's product with a weight ``[1, columns]``."""
        ...

    def last_position(self, x: V) -> V:
        """Keep the last position of every row."""
        ...

    def logits(
        self, x: V, name: str, rows: int, *, tied: bool, bias: bool, cap: float | None
    ) -> None:
        """Multiply by a matrix of ``rows`` outputs, cap the result, and make it the output."""
        ...


def build(ops: Dialect[V], c: DecoderConfig, progress: Callable[[int], None] | None = None) -> None:
    """Emit the decoder described by ``c``, reporting each layer done to ``progress``."""
    residual = _scaled(ops, ops.embedding("embedding", c.vocab), c.embedding_scale)
    x = ops.norm(residual, "layers.0.attention_norm") if c.pre_norm else residual
    for i in range(c.layers):
        at = f"layers.{i}."
        if c.parallel:
            branches = ops.add(_attention(ops, c, i, x), _mlp(ops, c, i, x))
        else:
            branch = _finished(ops, c, _attention(ops, c, i, x), at + "attention_post_norm")
            residual, x = _join(ops, residual, branch, at + "mlp_norm" if c.pre_norm else None)
            branches = _finished(ops, c, _mlp(ops, c, i, x), at + "mlp_post_norm")
        following = f"layers.{i + 1}.attention_norm" if c.pre_norm else None
        last = i + 1 == c.layers
        residual, x = _join(ops, residual, branches, "final_norm" if last else following)
        if progress is not None:
            progress(i + 1)
    x = _scaled(ops, ops.last_position(x), c.logits_scale)
    head = "embedding" if c.tied_embedding else "lm_head"
    ops.logits(x, head, c.vocab, tied=c.tied_embedding, bias=c.head_bias, cap=c.logits_cap)


def _attention(ops: Dialect[V], c: DecoderConfig, layer: int, x: V) -> V:
    if c.mixer is not None and layer in c.mixer.layers:
        return _mixed(ops, c, c.mixer, layer, x)
    at = f"layers.{layer}."
    rows = {at + "q": c.q_width, at + "k": c.kv_width, at + "v": c.kv_width}
    qkv = ops.linear(x, c.hidden, rows, bias=c.qkv_bias)
    norms = None if c.qk_norm == "none" else (at + "q_norm", at + "k_norm")
    attended = ops.attention(qkv, layer, norms)
    if c.output_gate:
        gate = ops.linear(x, c.hidden, {at + "q_gate": c.q_width}, bias=c.qkv_bias)
        attended = ops.open_gate(attended, gate)
    return ops.linear(attended, c.q_width, {at + "o": c.hidden}, bias=c.o_bias)


def _mixed(ops: Dialect[V], c: DecoderConfig, mixer: Mixer, layer: int, x: V) -> V:
    match mixer:
        case DeltaNet():
            return _delta_net(ops, c, mixer, layer, x)
        case ShortConvolution():
            return _short_convolution(ops, c, mixer, layer, x)
        case Mamba2():
            return _mamba(ops, c, mixer, layer, x)


def _delta_net(ops: Dialect[V], c: DecoderConfig, net: DeltaNet, layer: int, x: V) -> V:
    at = f"layers.{layer}.delta_"
    keys, values = net.key_width, net.value_width
    rows = {at + "q": keys, at + "k": keys, at + "v": values, at + "z": values}
    qkvz = ops.linear(x, c.hidden, rows, bias=False)
    read = ops.delta_net(qkvz, x, layer, net)
    return ops.linear(read, values, {at + "o": c.hidden}, bias=False)


def _short_convolution(
    ops: Dialect[V], c: DecoderConfig, net: ShortConvolution, layer: int, x: V
) -> V:
    at = f"layers.{layer}.conv_"
    bcx = ops.linear(x, c.hidden, {at + "in": 3 * net.channels}, bias=False)
    mixed = ops.short_convolution(bcx, layer, net)
    return ops.linear(mixed, net.channels, {at + "o": c.hidden}, bias=False)


def _mamba(ops: Dialect[V], c: DecoderConfig, net: Mamba2, layer: int, x: V) -> V:
    at = f"layers.{layer}.mamba_"
    zxbc = ops.linear(x, c.hidden, {at + "in": net.width + net.channels}, bias=False)
    read = ops.mamba(zxbc, x, layer, net)
    return ops.linear(read, net.width, {at + "o": c.hidden}, bias=False)


def _mlp(ops: Dialect[V], c: DecoderConfig, layer: int, x: V) -> V:
    at = f"layers.{layer}."
    if c.experts is not None and layer in c.experts.layers:
        return _experts(ops, c, c.experts, at, x)
    if c.gated:
        rows = {at + "gate": c.intermediate, at + "up": c.intermediate}
        inner = ops.gated(x, c.hidden, rows, c.activation, bias=c.mlp_bias)
    else:
        up = ops.linear(x, c.hidden, {at + "up": c.intermediate}, bias=c.mlp_bias)
        inner = ops.activation(up, c.activation)
    return ops.linear(inner, c.intermediate, {at + "down": c.hidden}, bias=c.mlp_bias)


def _experts(ops: Dialect[V], c: DecoderConfig, experts: Experts, at: str, x: V) -> V:
    chosen = ops.experts(x, at, c.hidden, experts)
    if not experts.shared:
        return chosen
    rows = {at + "shared_gate": experts.shared, at + "shared_up": experts.shared}
    inner = ops.gated(x, c.hidden, rows, c.activation, bias=False)
    shared = ops.linear(inner, experts.shared, {at + "shared_down": c.hidden}, bias=False)
    if experts.shared_weighed:
        shared = ops.let_through(shared, x, at + "shared_router", c.hidden)
    return ops.add(chosen, shared)


def _finished(ops: Dialect[V], c: DecoderConfig, branch: V, norm: str) -> V:
    """Return a branch as it joins the residual stream."""
    if c.post_norm:
        branch = ops.norm(branch, norm)
    return _scaled(ops, branch, c.residual_scale)


def _join(ops: Dialect[V], residual: V, branch: V, norm: str | None) -> tuple[V, V]:
    """Return the residual stream with a branch added, and what the next branch starts from."""
    if norm is not None:
        return ops.add_norm(residual, branch, norm)
    joined = ops.add(residual, branch)
    return joined, joined


def _scaled(ops: Dialect[V], x: V, factor: float) -> V:
    return x if factor == 1.0 else ops.scale(x, factor)
