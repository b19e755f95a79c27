"""The ``reference`` dialect: the decoder evaluated in NumPy, in float32.

Activations are ``float32[T, width]``: one text of T tokens, all positions at once, no cache. A few
rows of one weight are in memory at a time. What a graph computes is measured against this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rbee_export.checkpoint import DecoderConfig, Tensor
from rbee_export.checkpoint.config import Activation, DeltaNet, Experts, Mamba2, ShortConvolution
from rbee_export.checkpoint.rope import Rope
from rbee_export.dialect.activations import ACTIVATIONS, expert_gate, sigmoid, silu
from rbee_export.dialect.delta_rule import convolved, delta_rule, selective_state
from rbee_export.dialect.routing import ExpertBiases, Routing
from rbee_export.weights import PIECE, Weights

Floats = NDArray[np.float32]


class ReferenceDialect:
    """A :class:`~rbee_export.decoder.Dialect` that computes.

    Attributes:
        output: Logits of all positions, ``float32[T, vocab]``, once the decoder is built.
    """

    def __init__(self, config: DecoderConfig, weights: Weights, ids: Sequence[int]) -> None:
        self.output: Floats = np.empty((0, config.vocab), np.float32)
        self._c = config
        self._weights = weights
        self._ids = np.asarray(ids, np.intp)
        original = config.long_rope_from
        self._long = original is not None and len(ids) > original
        self._tables: dict[Rope, tuple[Floats, Floats]] = {}

    def embedding(self, name: str, rows: int) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return looked_up(self._weights, name, rows, self._c.hidden, self._ids)

    def norm(self, x: Floats, name: str) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        weight = self._weights.vector(name, self._c.hidden)
        if self._c.norm == "rms":
            return _rms_norm(x, weight, self._c.norm_epsilon)
        normed = _rms_norm(x - x.mean(-1, keepdims=True), weight, self._c.norm_epsilon)
        if not self._c.norm_bias:
            return normed
        return normed + self._weights.vector(f"{name}_bias", self._c.hidden)

    def add(self, a: Floats, b: Floats) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return a + b

    def add_norm(self, residual: Floats, x: Floats, name: str) -> tuple[Floats, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        total = residual + x
        return total, self.norm(total, name)

    def scale(self, x: Floats, factor: float) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return x * np.float32(factor)

    def linear(self, x: Floats, columns: int, rows: Mapping[str, int], *, bias: bool) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        parts = [product(self._weights, x, name, n, columns) for name, n in rows.items()]
        joined: Floats = np.concatenate(parts, axis=-1)
        if bias:
            joined += self.bias(rows)
        return joined

    def bias(self, rows: Mapping[str, int]) -> Floats:
        """Return the biases of matrices that stand side by side, ``float32[sum(rows)]``."""
        return self._weights.bias(rows)

    def attention(self, qkv: Floats, layer: int, norms: tuple[str, str] | None) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        c, how = self._c, self._c.attention[layer]
        q, k, v = np.split(qkv, [c.q_width, c.q_width + c.kv_width], axis=-1)
        if norms is not None and c.qk_norm == "whole":
            q, k = self._qk_norm(q, norms[0]), self._qk_norm(k, norms[1])
        # [heads, T, head_dim]
        q, k, v = (x.reshape(len(x), -1, c.head_dim).swapaxes(0, 1) for x in (q, k, v))
        if how.rope is not None and c.qk_norm_last:
            q, k = self._rotate(q, how.rope), self._rotate(k, how.rope)
        if norms is not None and c.qk_norm == "head":
            q, k = self._qk_norm(q, norms[0]), self._qk_norm(k, norms[1])
        if how.rope is not None and not c.qk_norm_last:
            q, k = self._rotate(q, how.rope), self._rotate(k, how.rope)
        if c.temperature is not None:
            q = q * c.temperature.factors(len(qkv))
        positions = np.arange(len(qkv))
        distance = positions[:, None] - positions
        if not c.causal:
            distance = np.abs(distance)
        hidden = distance < 0
        if how.window is not None:
            hidden |= distance >= how.window
        scale = c.head_dim**-0.5 if c.attention_scale is None else c.attention_scale
        attended = np.empty_like(q)
        sinks = self._weights.vector(f"layers.{layer}.sinks", c.heads) if how.sinks else None
        for head in range(c.heads):
            shared = head * c.kv_heads // c.heads
            scores = (q[head] @ k[shared].T) * np.float32(scale)
            if c.attention_cap is not None:
                scores = _capped(scores, c.attention_cap)
            scores[hidden] = -np.inf
            most = scores.max(-1, keepdims=True)
            if sinks is not None:
                most = np.maximum(most, sinks[head])
            np.exp(scores - most, out=scores)
            total = scores.sum(-1, keepdims=True)
            if sinks is not None:
                total += np.exp(sinks[head] - most)
            scores /= total
            attended[head] = scores @ v[shared]
        joined: Floats = attended.swapaxes(0, 1).reshape(len(qkv), c.q_width)
        return joined

    def delta_net(self, qkvz: Floats, x: Floats, layer: int, net: DeltaNet) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        at, heads = f"layers.{layer}.delta_", net.value_heads
        qkv, z = qkvz[:, : net.channels], qkvz[:, net.channels :]
        filters = self._weights.filters(at + "conv", net.channels, net.taps)
        b, a = (product(self._weights, x, at + short, heads, self._c.hidden) for short in "ba")
        step = self._weights.vector(at + "step", heads)
        decay = self._weights.vector(at + "decay", heads)
        kept = np.exp(decay * np.logaddexp(np.float32(0), a + step))
        read = delta_rule(silu(convolved(qkv, filters)), kept, sigmoid(b), net)
        weight = self._weights.vector(at + "norm", net.value_dim)
        normed = _rms_norm(read, weight, self._c.norm_epsilon)
        return normed.reshape(z.shape) * silu(z)

    def short_convolution(self, bcx: Floats, layer: int, net: ShortConvolution) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        b, c, x = np.split(bcx, 3, axis=-1)
        name = f"layers.{layer}.conv_filters"
        return c * convolved(b * x, self._weights.filters(name, net.channels, net.taps))

    def mamba(self, zxbc: Floats, x: Floats, layer: int, net: Mamba2) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        at, weights = f"layers.{layer}.mamba_", self._weights
        z, xbc = zxbc[:, : net.width], zxbc[:, net.width :]
        filters = weights.filters(at + "conv", net.channels, net.taps)
        mixed = silu(convolved(xbc, filters) + weights.vector(at + "conv_bias", net.channels))
        own, b, c = np.split(mixed, [net.width, net.width + net.state_dim], axis=-1)
        decay, step, skip = (
            weights.vector(at + part, net.heads) for part in ("decay", "step", "skip")
        )
        dt = product(weights, x, at + "dt", net.heads, self._c.hidden)
        dt = np.logaddexp(np.float32(0), dt + step)
        heads = own.reshape(len(own), net.heads, net.head_dim)
        read = selective_state(heads, b, c, np.exp(decay * dt), dt) + skip[:, None] * heads
        gated = read.reshape(z.shape) * silu(z)
        return _rms_norm(gated, weights.vector(at + "norm", net.width), self._c.norm_epsilon)

    def open_gate(self, y: Floats, gate: Floats) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return y * sigmoid(gate)

    def activation(self, x: Floats, kind: Activation) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return ACTIVATIONS[kind](x)

    def gated(
        self, x: Floats, columns: int, rows: Mapping[str, int], kind: Activation, *, bias: bool
    ) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self.gate(self.linear(x, columns, rows, bias=bias), kind)

    def gate(self, gate_up: Floats, kind: Activation) -> Floats:
        """Return ``activation(gate) * up`` of two halves side by side."""
        gate, up = np.split(gate_up, 2, axis=-1)
        return self.activation(gate, kind) * up

    def experts(self, x: Floats, at: str, columns: int, experts: Experts) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        count, width = experts.count, experts.intermediate
        matrices = (
            self._weights.experts(at + "expert_gate", count, width, columns),
            self._weights.experts(at + "expert_up", count, width, columns),
            self._weights.experts(at + "expert_down", count, columns, width),
        )
        routing = self.routing(x, at, columns, experts)
        biases = self.expert_biases(at, columns, experts)
        outcome = np.zeros_like(x)
        for expert, (gate, up, down) in enumerate(zip(*matrices, strict=True)):
            tokens, shares = routing.of_expert(expert)
            if len(tokens):
                own = x[tokens]
                inner = expert_gate(
                    _multiplied(own, gate) + biases.gate[expert],
                    _multiplied(own, up) + biases.up[expert],
                    experts,
                )
                outcome[tokens] += shares * (_multiplied(inner, down) + biases.down[expert])
        return outcome

    def routing(self, x: Floats, at: str, columns: int, experts: Experts) -> Routing:
        """Return which experts the tokens are given; see :meth:`experts`."""
        logits = product(self._weights, x, at + "router", experts.count, columns)
        if experts.clamped:
            logits += self._weights.vector(at + "router_bias", experts.count)
        if experts.sigmoid:
            return Routing.by_sigmoid(
                logits, self._weights.vector(at + "choice_bias", experts.count), experts
            )
        return Routing.of(logits, experts)

    def expert_biases(self, at: str, columns: int, experts: Experts) -> ExpertBiases:
        """Return what is added to the experts' products."""
        return ExpertBiases.of(self._weights, at, columns, experts)

    def let_through(self, y: Floats, x: Floats, name: str, columns: int) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return y * sigmoid(product(self._weights, x, name, 1, columns))

    def last_position(self, x: Floats) -> Floats:
        """Keep every position: all are compared."""
        return x

    def logits(
        self, x: Floats, name: str, rows: int, *, tied: bool, bias: bool, cap: float | None
    ) -> None:
        """See :class:`~rbee_export.decoder.Dialect`."""
        del tied  # the weight is read again, to hold one at a time
        logits = product(self._weights, x, name, rows, self._c.hidden)
        if bias:
            logits += self._weights.vector(f"{name}_bias", rows)
        self.output = logits if cap is None else _capped(logits, cap)

    def _qk_norm(self, x: Floats, name: str) -> Floats:
        weight = self._weights.vector(name, x.shape[-1])
        return _rms_norm(x, weight, self._c.norm_epsilon)

    def _rotate(self, x: Floats, rope: Rope) -> Floats:
        if rope not in self._tables:
            self._tables[rope] = rope.tables(len(self._ids), long=self._long)
        cos, sin = (table[: x.shape[-2]] for table in self._tables[rope])
        return rotated(x, cos, sin)


def rotated(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """Turn heads, ``float32[..., T, head_dim]``, by angles of ``float32[T, half]``."""
    half = cos.shape[-1]
    turned = x.copy()
    a, b = x[..., :half], x[..., half : 2 * half]
    turned[..., :half] = a * cos - b * sin
    turned[..., half : 2 * half] = b * cos + a * sin
    return turned


def looked_up(
    weights: Weights, name: str, rows: int, columns: int, ids: NDArray[np.intp]
) -> Floats:
    """Return rows of a weight of ``[rows, columns]``, read a few at a time."""
    vectors = np.empty((len(ids), columns), np.float32)
    for part, table in weights.pieces(name, rows, columns):
        there = (ids >= part.start) & (ids < part.stop)
        vectors[there] = table[ids[there] - part.start]
    return vectors


def product(weights: Weights, x: Floats, name: str, rows: int, columns: int) -> Floats:
    """Multiply ``float32[T, columns]`` by a weight of ``[rows, columns]``, a few at a time."""
    outputs = np.empty((len(x), rows), np.float32)
    for part, matrix in weights.pieces(name, rows, columns):
        outputs[:, part] = x @ matrix.T
    return outputs


def _multiplied(x: Floats, tensor: Tensor) -> Floats:
    """Multiply ``float32[T, columns]`` by a matrix, a few rows at a time."""
    parts = [x @ rows.T for _, rows in tensor.pieces(PIECE)]
    product: Floats = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    return product


def _rms_norm(x: Floats, weight: Floats, epsilon: float) -> Floats:
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    normed: Floats = x / np.sqrt(mean_square + np.float32(epsilon)) * weight
    return normed


def _capped(x: Floats, cap: float) -> Floats:
    capped: Floats = np.tanh(x / np.float32(cap)) * np.float32(cap)
    return capped
