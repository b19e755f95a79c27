"""The model definition: an encoder-only transformer that embeds texts (Devlin et al. 2019).

Weights go by these names, each a matrix of ``[outputs, inputs]`` or a vector:

    embedding                            [vocab, hidden]
    positions                            [context_length, hidden]
    token_type                           [1, hidden], the first type, where there are any
    embedding_norm                       [hidden]
    layers.{i}.q, .k, .v, .o             [hidden, hidden]
    layers.{i}.attention_norm            [hidden]
    layers.{i}.up                        [intermediate, hidden]
    layers.{i}.down                      [hidden, intermediate]
    layers.{i}.mlp_norm                  [hidden]

Every matrix of a layer, and every norm, has a bias: its name with ``_bias`` appended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from rbee_export.checkpoint.encoder_config import EncoderActivation, EncoderConfig
from rbee_export.checkpoint.pooling import PoolingKind, SentencePooling

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

    def add_norm(self, residual: V, x: V, name: str) -> V:
        """Return the layer norm (Ba et al. 2016) of ``residual + x``."""
        ...

    def linear(self, x: V, columns: int, rows: Mapping[str, int]) -> V:
        """Multiply by matrices of ``[rows[name], columns]`` and add their biases; their results
        stand side by side.
        """
        ...

    def attention(self, qkv: V) -> V:
        """Have each token attend to all tokens of its text."""
        ...

    def activated(self, x: V, columns: int, rows: Mapping[str, int], kind: EncoderActivation) -> V:
        """Apply an activation function to what :meth:`linear` makes of ``x``."""
        ...

    def pooled(self, x: V, kind: PoolingKind) -> V:
        """Make one vector of those of a text's tokens."""
        ...

    def normalized(self, x: V) -> V:
        """Divide each vector by its length."""
        ...

    def output(self, x: V) -> None:
        """Make these vectors, one a text, the output."""
        ...


def build(
    ops: EncoderDialect[V],
    c: EncoderConfig,
    pooling: SentencePooling,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Emit the encoder described by ``c``, reporting each layer done to ``progress``."""
    words = ops.embedding("embedding", c.vocab)
    places = ops.positions("positions", "token_type" if c.token_types else None)
    x = ops.add_norm(words, places, "embedding_norm")
    for i in range(c.layers):
        at = f"layers.{i}."
        x = ops.add_norm(x, _attention(ops, c, at, x), at + "attention_norm")
        x = ops.add_norm(x, _mlp(ops, c, at, x), at + "mlp_norm")
        if progress is not None:
            progress(i + 1)
    embedded = ops.pooled(x, pooling.kind)
    ops.output(ops.normalized(embedded) if pooling.normalized else embedded)


def _attention(ops: EncoderDialect[V], c: EncoderConfig, at: str, x: V) -> V:
    rows = {at + "q": c.hidden, at + "k": c.hidden, at + "v": c.hidden}
    return ops.linear(ops.attention(ops.linear(x, c.hidden, rows)), c.hidden, {at + "o": c.hidden})


def _mlp(ops: EncoderDialect[V], c: EncoderConfig, at: str, x: V) -> V:
    up = ops.activated(x, c.hidden, {at + "up": c.intermediate}, c.activation)
    return ops.linear(up, c.intermediate, {at + "down": c.hidden})
