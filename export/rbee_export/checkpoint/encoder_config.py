"""An encoder's hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rbee_export.checkpoint.rope import Rope

EncoderActivation = Literal["gelu", "gelu_tanh", "relu", "silu"]


@dataclass(frozen=True, slots=True)
class RotaryAttention:
    """How one layer with rotary embedding attends.

    Attributes:
        rope: The rotary embedding.
        reach: How many tokens before it, and after it, a token sees; ``None`` for all.
    """

    rope: Rope
    reach: int | None = None


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """What the encoder definition needs to know besides the weights.

    Attributes:
        family: Row of the family table.
        layers: Encoder blocks.
        hidden: Width of the activations between blocks.
        intermediate: Width inside the MLP.
        heads: Attention heads; divides ``hidden``.
        vocab: Rows of the embedding.
        context_length: Tokens of one text at most, special ones included.
        norm_epsilon: Added to the variance inside normalisation.
        activation: Inside the MLP.
        positions: There is a table of positions.
        first_position: Row of that table that a text's first token takes.
        token_types: Rows that count of a table of token types: none, the one that single texts are
            of, or two, of the texts of a pair.
        relative: Scores have a number added by how far apart tokens are, the same in all layers.
        rotary: How each layer attends where heads are rotated; empty where they are not.
        pre_norm: Each branch starts with a norm, the first layer's attention apart; else the sum
            that it ends in is normalised.
        gated: The MLP multiplies its activation by a second projection.
        attention_bias: The attention's matrices have biases.
        mlp_bias: The MLP's have.
        norm_bias: Norms have.
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocab: int
    context_length: int
    norm_epsilon: float
    activation: EncoderActivation = "gelu"
    positions: bool = True
    first_position: int = 0
    token_types: int = 1
    relative: bool = False
    rotary: tuple[RotaryAttention, ...] = ()
    pre_norm: bool = False
    gated: bool = False
    attention_bias: bool = True
    mlp_bias: bool = True
    norm_bias: bool = True

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    def reach(self, layer: int) -> int:
        """Return how many tokens before it, and after it, a token of a layer sees."""
        own = self.rotary[layer].reach if self.rotary else None
        return self.context_length if own is None else own
