"""Whether engines that are timed also say the right thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rbee_bench.peers import PeerProcess

LEAST = 1 / 3
"""Share of next tokens below which an engine is called wrong. Weights in 4 bits keep some 60 %."""

_PROMPTS, _LENGTH = 24, 24

CAPACITY = _LENGTH + 1
"""Positions that an engine has to have to be asked."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often engines choose the token that a reference does.

    Attributes:
        reference: The engine that the others are compared with.
        prompts: How many prompts each was asked to go on from.
        shares: By label, the share of prompts after which it chose the reference's token.
    """

    reference: str
    prompts: int
    shares: dict[str, float]

    @property
    def wrong(self) -> list[str]:
        """Labels of engines whose figures are worth nothing."""
        return [label for label, share in self.shares.items() if share < LEAST]


def measure_agreement(peers: Mapping[str, PeerProcess], ids: Sequence[int]) -> Agreement:
    """Compare the token that each engine has follow each of 24 prompts cut from ``ids``.

    The reference is eager torch; where that does not run, the most exact of the compiled ones.

    Raises:
        PeerFault: An engine fails.
    """
    kinds = {peer.spec.kind: label for label, peer in peers.items()}
    exact = "gguf" if "gguf" in peers else next(iter(peers))
    reference = kinds.get("eager", exact)
    stride = max(1, (len(ids) - _LENGTH) // _PROMPTS)
    prompts = [ids[place * stride :][:_LENGTH] for place in range(_PROMPTS)]
    chosen = {
        label: [peer.complete(prompt, 1) for prompt in prompts] for label, peer in peers.items()
    }
    shares = {
        label: sum(a == b for a, b in zip(tokens, chosen[reference], strict=True)) / len(prompts)
        for label, tokens in chosen.items()
    }
    return Agreement(reference, len(prompts), shares)
