"""The model definition: an encoder-only transformer that embeds texts (Devlin et al. 2019), with
the knobs its families turn.

Weights go by these names, each a matrix of ``[outputs, inputs]`` or a vector:

    embedding                            [vocab, hidden]
    positions                            [context_length, hidden], where there is a table
    token_type                           [types, hidden], where there are any: the first type, of
                                         models that read pairs the second as well
    embedding_norm                       [hidden]
    distances                            [buckets, heads], where scores have biases by distance
    layers.{i}.q, .k, .v, .o             [hidden, hidden]
    layers.{i}.attention_norm            [hidden]
    layers.{i}.gate, .up                 [intermediate, hidden], gate in gated MLPs only
    layers.{i}.down                      [hidden, intermediate]
    layers.{i}.mlp_norm                  [hidden]
    final_norm                           [hidden], where branches start with a norm
    vectors.{i}.dense                    [outputs, inputs], of a layer after the pooling
    vectors.{i}.norm                     [outputs], where that ends in a norm

A bias goes by the name of its matrix or norm with ``_bias`` appended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from rbee_export.checkpoint.encoder_config import EncoderActivation, EncoderConfig
from rbee_export.checkpoint.pooling import Dense, Output, PoolingKind, SentencePooling

V = TypeVar("V")


class EncoderDialect(Protocol[V]):
    """The operations an encoder is made of; ``V`` is what stands for activations."""

    def embedding(self, name: str, rows: int) -> V:
        """Look the input tokens up in a table of ``rows`` vectors."""
        ...

    def positions(self, name: str, added: str | None) -> V:
        """Look up where each token stands in its text, in a table to each row of which ``added``,
        a vector, is added where it is named.
        """
        ...

    def add_vector(self, x: V, name: str) -> V:
        """Add one vector, the only row of a table, to each."""
        ...

    def add_types(self, x: V, name: str, rows: int) -> V:
        """Add to each the vector of its token's type, in a table of ``rows``."""
        ...

    def norm(self, x: V, name: str) -> V:
        """Return the layer norm (Ba et al. 2016) of each vector."""
        ...

    def add_norm(self, residual: V, x: V, name: str) -> V:
        """Return the layer norm of ``residual + x``."""
        ...

    def add_and_norm(self, residual: V, x: V, name: str) -> tuple[V, V]:
        """Return ``residual + x`` and its layer norm."""
        ...

    def linear(self, x: V, columns: int, rows: Mapping[str, int], *, bias: bool) -> V:
        """Multiply by matrices of ``[rows[name], columns]``; their results stand side by side."""
        ...

    def attention(self, qkv: V, layer: int) -> V:
        """Have each token attend to the tokens of its text that it sees in a layer."""
        ...

    def activated(
        self, x: V, columns: int, rows: Mapping[str, int], kind: EncoderActivation, *, bias: bool
    ) -> V:
        """Apply an activation function to what :meth:`linear` makes of ``x``."""
        ...

    def gated(
        self, x: V, columns: int, rows: Mapping[str, int], kind: EncoderActivation, *, bias: bool
    ) -> V:
        """Return ``activation(gate) * up``, of what two matrices make of ``x`` (Shazeer 2020)."""
        ...

    def pooled(self, x: V, kind: PoolingKind) -> V:
        """Make one vector of those of a text's tokens."""
        ...

    def dense(self, x: V, at: str, layer: Dense) -> V:
        """Have each text's vector go through a layer, the names of whose weights begin so."""
        ...

    def normalized(self, x: V) -> V:
        """Divide each vector by its length."""
        ...

    def output(self, x: V, name: Output, width: int) -> None:
        """Make these vectors, one a text, of so many numbers, the output of this name."""
        ...


def build(
    ops: EncoderDialect[V],
    c: EncoderConfig,
    pooling: SentencePooling,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Emit the encoder described by ``c``, reporting each layer done to ``progress``."""
    residual = x = _embedded(ops, c)
    for i in range(c.layers):
        at = f"layers.{i}."
        if c.pre_norm:
            following = "final_norm" if i + 1 == c.layers else f"layers.{i + 1}.attention_norm"
            residual, x = ops.add_and_norm(residual, _attention(ops, c, i, x), at + "mlp_norm")
            residual, x = ops.add_and_norm(residual, _mlp(ops, c, at, x), following)
        else:
            x = ops.add_norm(x, _attention(ops, c, i, x), at + "attention_norm")
            x = ops.add_norm(x, _mlp(ops, c, at, x), at + "mlp_norm")
        if progress is not None:
            progress(i + 1)
    vectors = ops.pooled(x, pooling.kind)
    for at, layer in pooling.named_layers():
        vectors = ops.dense(vectors, at, layer)
    if pooling.normalized:
        vectors = ops.normalized(vectors)
    ops.output(vectors, pooling.output, pooling.width(c.hidden))


def _embedded(ops: EncoderDialect[V], c: EncoderConfig) -> V:
    words = ops.embedding("embedding", c.vocab)
    if c.token_types > 1:
        words = ops.add_types(words, "token_type", c.token_types)
    alike = c.token_types == 1
    if c.positions:
        places = ops.positions("positions", "token_type" if alike else None)
        return ops.add_norm(words, places, "embedding_norm")
    if alike:
        words = ops.add_vector(words, "token_type")
    return ops.norm(words, "embedding_norm")


def _attention(ops: EncoderDialect[V], c: EncoderConfig, layer: int, x: V) -> V:
    at = f"layers.{layer}."
    rows = {at + "q": c.hidden, at + "k": c.hidden, at + "v": c.hidden}
    qkv = ops.linear(x, c.hidden, rows, bias=c.attention_bias)
    attended = ops.attention(qkv, layer)
    return ops.linear(attended, c.hidden, {at + "o": c.hidden}, bias=c.attention_bias)


def _mlp(ops: EncoderDialect[V], c: EncoderConfig, at: str, x: V) -> V:
    rows = {at + "up": c.intermediate}
    if c.gated:
        rows = {at + "gate": c.intermediate, **rows}
        inner = ops.gated(x, c.hidden, rows, c.activation, bias=c.mlp_bias)
    else:
        inner = ops.activated(x, c.hidden, rows, c.activation, bias=c.mlp_bias)
    return ops.linear(inner, c.intermediate, {at + "down": c.hidden}, bias=c.mlp_bias)
