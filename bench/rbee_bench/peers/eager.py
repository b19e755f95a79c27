"""Eager torch: the dequantised weights in transformers' model class, float32, with its KV cache."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rbee_bench.engine_process import PeerFault
from rbee_bench.peers.dense import dense_directory, dense_reads
from rbee_bench.peers.peer import (
    Logits,
    Reads,
    Spec,
    Timing,
    complete_steps,
    timed_prefill,
    timed_steps,
)


def require_eager() -> None:
    """Check that an :class:`EagerPeer` can be opened, before anything is made to compare with it.

    Raises:
        PeerFault: What it needs is not installed.
    """
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise PeerFault(
                f"what ours is compared with needs {name}, which is not installed: "
                "pip install 'onnx-worker-rbee[bench]'"
            )


class EagerPeer:
    """The reference: what the weights mean, by the library they were published with.

    Attributes:
        version: See :class:`~rbee_bench.peers.peer.Peer`.
    """

    def __init__(self, spec: Spec) -> None:
        self._torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        self.version = f"torch {self._torch.__version__}, transformers {transformers.__version__}"
        self._torch.set_num_threads(spec.threads)
        self._directory = dense_directory(spec.model, spec.workspace)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            self._directory, dtype=self._torch.float32
        ).eval()
        self._cache: Any = None

    def decode(self, prompt: Sequence[int], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return timed_steps(self, prompt, tokens)

    def prefill(self, prompt: Sequence[int]) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return timed_prefill(self, prompt)

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        start = time.perf_counter()
        self._cache = None
        ids = self._torch.tensor([list(prompt) for prompt in prompts])
        for _ in range(tokens):
            ids = self._forward(ids, 1)[:, -1].argmax(-1, keepdim=True)
        return Timing(len(prompts) * tokens, time.perf_counter() - start)

    def complete(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return complete_steps(self, prompt, tokens)

    def score(self, ids: Sequence[int]) -> Iterator[Logits]:
        """See :class:`~rbee_bench.peers.peer.Peer`. In pieces: eager steps take a minute."""
        self._cache = None
        for first in range(0, len(ids), _PIECE):
            yield from self._run(ids[first : first + _PIECE], _PIECE)

    def reads(self) -> Reads:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return dense_reads(self._directory, 4, "fp32")

    def begin(self, prompt: Sequence[int]) -> Logits:
        """See :class:`~rbee_bench.peers.peer.Stepper`."""
        self._cache = None
        return self._run(prompt, 1)[0]

    def step(self, token: int) -> Logits:
        """See :class:`~rbee_bench.peers.peer.Stepper`."""
        return self._run([token], 1)[0]

    def _run(self, tokens: Sequence[int], keep: int) -> Sequence[Logits]:
        rows: Sequence[Logits] = self._forward(self._torch.tensor([list(tokens)]), keep)[0].numpy()
        return rows

    def _forward(self, ids: Any, keep: int) -> Any:
        """Run ``[rows, tokens]`` ids and return the logits of each row's last ``keep``."""
        with self._torch.inference_mode():
            output = self._model(
                ids, past_key_values=self._cache, use_cache=True, logits_to_keep=keep
            )
        self._cache = output.past_key_values
        return output.logits


_PIECE = 256
"""Tokens a step when scoring: their logits are 50 MB at a vocabulary of 49,152."""
