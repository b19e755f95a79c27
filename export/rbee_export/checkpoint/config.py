"""A decoder's hyper-parameters, whatever kind of file they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rbee_export.checkpoint.rope import Rope
from rbee_export.checkpoint.temperature import Temperature

Activation = Literal["silu", "gelu_tanh", "relu2"]


@dataclass(frozen=True, slots=True)
class Attention:
    """How one layer attends.

    Attributes:
        rope: Rotary embedding; ``None`` for a layer without positions.
        window: Latest positions a token sees, itself included, and where attention is not causal
            as many from itself on; ``None`` for all.
        sinks: Each head of queries has a score beside those of the keys, which takes a share of
            the weights and adds nothing (Xiao et al. 2023; learnt, as in gpt-oss).
    """

    rope: Rope | None
    window: int | None = None
    sinks: bool = False


@dataclass(frozen=True, slots=True)
class Experts:
    """MLPs of which a router chooses some for each token, in the place of one MLP.

    Attributes:
        count: How many there are in a layer.
        active: How many of them a token gets.
        intermediate: Width inside one of them.
        normalized: The weights of those that a token gets are divided by their sum.
        layers: Layers that have them; the others have one MLP.
        shared: Width inside an MLP that every token gets besides; zero where there is none.
        shared_weighed: Its outcome is multiplied by a weight of the token's own.
        clamped: Router and matrices have biases, and an expert's inner activations are
            ``g * sigmoid(1.702 g) * (u + 1)``, ``g`` no more than 7, ``u`` from -7 to 7, as in
            gpt-oss.
        sigmoid: An expert's weight is the sigmoid of its product with the router, by itself, and
            a token is given those with the largest sum of that and a number of the expert's own
            (Wang et al. 2024, arXiv:2408.15664).
    """

    count: int
    active: int
    intermediate: int
    normalized: bool
    layers: frozenset[int]
    shared: int = 0
    shared_weighed: bool = True
    clamped: bool = False
    sigmoid: bool = False


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """Linear attention in the place of some layers' attention: a state, no keys and values.

    Attributes:
        key_heads: Heads of queries, and of keys.
        value_heads: Heads of values, each with a state; ``key_heads`` divides them.
        key_dim: Width of a query's head and of a key's.
        value_dim: Width of a value's head.
        taps: Tokens that the convolution before it sees, each one's own included.
        layers: Layers that have it; the others attend.
        tiled: Head h of values has the keys of head h modulo ``key_heads``, not those that its
            neighbours have.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int
    layers: frozenset[int]
    tiled: bool = False

    @property
    def key_width(self) -> int:
        """Width of all heads of queries, and of keys."""
        return self.key_heads * self.key_dim

    @property
    def value_width(self) -> int:
        """Width of all heads of values."""
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """Width of queries, keys and values side by side: what is convolved."""
        return 2 * self.key_width + self.value_width


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """A gated convolution in the place of some layers' attention: the latest tokens, no others.

    Attributes:
        channels: Width of what is convolved, each channel by itself.
        taps: Tokens that a token sees, itself included.
        layers: Layers that have it; the others attend.
    """

    channels: int
    taps: int
    layers: frozenset[int]


@dataclass(frozen=True, slots=True)
class Mamba2:
    """A state space in the place of some layers' attention (Dao & Gu 2024, arXiv:2405.21060).

    Attributes:
        heads: Heads, each with a state.
        head_dim: Width of one.
        state_dim: Width of what a state is written and read by, the same for all heads.
        taps: Tokens that the convolution before it sees, each one's own included.
        layers: Layers that have it; the others attend.
    """

    heads: int
    head_dim: int
    state_dim: int
    taps: int
    layers: frozenset[int]

    @property
    def width(self) -> int:
        """Width of all heads."""
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Width of what is convolved: heads, and what their states are written and read by."""
        return self.width + 2 * self.state_dim


Mixer = DeltaNet | ShortConvolution | Mamba2
"""What a layer may have in the place of attention."""


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """What the decoder definition needs to know besides the weights.

    Attributes:
        family: Row of the family table.
        layers: Decoder blocks.
        hidden: Width of the residual stream.
        intermediate: Width inside the MLP.
        heads: Query heads.
        kv_heads: Key and value heads; divides ``heads``.
        head_dim: Width of one head; even.
        vocab: Rows of the embedding.
        context_length: Positions the model was made for.
        norm_epsilon: Added to the mean square (or variance) inside normalisation.
        attention: How each layer attends, ``layers`` of them, be it that it does.
        tied_embedding: The output projection is the embedding.
        norm: RMS norms, or layer norms.
        norm_bias: Layer norms have biases.
        pre_norm: Each branch starts with a norm.
        post_norm: Each branch ends with a norm, before it joins the residual stream.
        parallel: Attention and MLP read the same norm and join the stream together.
        qk_norm: RMS norms of queries and keys, of each head or of their whole width.
        qk_norm_last: Those norms come after the rotary embedding.
        activation: Inside the MLP.
        gated: The MLP multiplies its activation by a second projection.
        qkv_bias: Query, key and value projections have biases.
        o_bias: The attention's output projection has one.
        mlp_bias: The MLP's projections have.
        head_bias: The output projection has one.
        embedding_scale: Factor on the embedding.
        residual_scale: Factor on what a branch adds to the residual stream.
        logits_scale: Factor on the logits.
        attention_scale: Factor on query-key products; ``None`` for ``1 / sqrt(head_dim)``.
        temperature: Factors on queries by their position; ``None`` for none.
        attention_cap: Soft cap ``cap * tanh(x / cap)`` on scaled query-key products.
        logits_cap: Soft cap on the logits.
        causal: A token sees none that comes later.
        output_gate: What a layer attended to is let through by the sigmoid of a projection.
        experts: Those of its layers that have some; ``None`` where none has.
        mixer: What some layers have instead of attention, and keep a state for; ``None`` where all
            attend.
        overflows_fp16: Its activations grow beyond what a 16-bit float of 5 exponent bits holds; it
            was trained in ``bfloat16``.
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    norm_epsilon: float
    attention: tuple[Attention, ...]
    tied_embedding: bool
    norm: Literal["rms", "layer"] = "rms"
    norm_bias: bool = True
    pre_norm: bool = True
    post_norm: bool = False
    parallel: bool = False
    qk_norm: Literal["none", "head", "whole"] = "none"
    qk_norm_last: bool = False
    activation: Activation = "silu"
    gated: bool = True
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    attention_scale: float | None = None
    temperature: Temperature | None = None
    attention_cap: float | None = None
    logits_cap: float | None = None
    causal: bool = True
    output_gate: bool = False
    experts: Experts | None = None
    mixer: Mixer | None = None
    overflows_fp16: bool = False

    @property
    def q_width(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def windowed_layers(self) -> tuple[int, ...]:
        """Layers that never see all of a long sequence."""
        windows = enumerate(a.window for a in self.attention)
        return tuple(i for i, w in windows if w is not None and w < self.context_length)

    @property
    def window(self) -> int | None:
        """Latest positions that any of those layers sees; ``None`` where there are none."""
        windows = (self.attention[layer].window for layer in self.windowed_layers)
        return max((window for window in windows if window is not None), default=None)

    @property
    def needs_positions(self) -> bool:
        """Whether a step has to be told where its tokens stand, besides how full the cache is."""
        told = self.windowed_layers or self.long_rope_from or self.temperature
        return bool(told or self.qk_norm_last)

    @property
    def long_rope_from(self) -> int | None:
        """The context length beyond which another set of rotary frequencies applies, if any."""
        return next(
            (a.rope.original_context for a in self.attention if a.rope and a.rope.has_long_table),
            None,
        )
