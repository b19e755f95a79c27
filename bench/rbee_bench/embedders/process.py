"""The near end of the process of an engine of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rbee_bench.embedders.embedder import EmbedderSpec, Vectors, Waits
from rbee_bench.engine_process import EngineProcess, beside_vllm, here

_PROGRAM = "rbee_bench.embedders.worker"


class EmbedderProcess(EngineProcess):
    """An engine of embeddings, opened in a process of its own, which ends with the ``with`` block.

    Attributes:
        spec: What was opened.
        version: Name and version of what computes.

    Raises:
        PeerFault: From every method: the engine cannot be opened, raised an error, or died.
    """

    def __init__(self, spec: EmbedderSpec) -> None:
        self.spec = spec
        start = beside_vllm if spec.kind == "vllm" else here
        command, variables = start(_PROGRAM, spec.threads)
        super().__init__([*command, spec.to_json()], variables)

    def embed(self, texts: Sequence[str], file: Path) -> Vectors:
        """Write the vectors of texts to ``file`` and read them: ``float32[texts, dim]``."""
        self._ask(call="embed", texts=list(texts), file=str(file))
        vectors: Vectors = np.load(file)
        return vectors

    def time(self, calls: Sequence[Sequence[str]]) -> Waits:
        """Time calls, each of which embeds its texts together, one after the other."""
        return Waits(tuple(self._ask(call="time", calls=list(map(list, calls)))["seconds"]))
