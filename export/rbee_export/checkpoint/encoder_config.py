"""An encoder's hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EncoderActivation = Literal["gelu", "gelu_tanh", "relu", "silu"]


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
        first_position: Row of the position table that a text's first token takes.
        norm_epsilon: Added to the variance inside normalisation.
        activation: Inside the MLP.
        token_types: There is a table of token types, of which a single text is the first.
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
    first_position: int = 0
    token_types: bool = True

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads
