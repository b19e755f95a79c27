"""An encoder without a model, whose vectors tell which ids they are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.embedding.packer import Pack

DIM = 64


def vector_of(ids: Sequence[int] | NDArray[np.int32]) -> NDArray[np.float32]:
    vector = np.zeros(DIM, np.float32)
    vector[: min(len(ids), DIM)] = ids[:DIM]
    return vector


class StandInEncoder:
    """Keeps what has been run.

    Attributes:
        packs: What has been run, in order; the last one may still be running.
        before: Called with each pack, on the embedder's thread, before it counts as run.
    """

    name = "cpu"
    weight_bytes = 4096

    def __init__(
        self, *, before: Callable[[Pack], object] = lambda pack: None, pack_tokens: int = 32
    ) -> None:
        self.before = before
        self.pack_tokens = pack_tokens
        self.packs: list[Pack] = []

    def run(self, pack: Pack) -> NDArray[np.float32]:
        self.packs.append(pack)
        self.before(pack)
        return np.stack([vector_of(text.ids) for text in pack.texts])

    def warm_up(self) -> None:
        pass

    def held(self) -> int:
        return 2 * self.weight_bytes
