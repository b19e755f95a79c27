"""OpenVINO GenAI, which reads a GGUF file by itself."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from rbee_bench.peers.peer import Logits, Reads, Spec, Timing


class OpenvinoPeer:
    """The library's pipeline at its settings for low latency.

    Only that it remembers no prompt is not its default: what is timed is to be computed. It goes on
    past an end of text.

    Attributes:
        version: See :class:`~rbee_bench.peers.peer.Peer`.
    """

    def __init__(self, spec: Spec) -> None:
        self._openvino: Any = importlib.import_module("openvino")
        self._genai: Any = importlib.import_module("openvino_genai")
        self.version = f"openvino-genai {version('openvino-genai')}"
        scheduling = self._genai.SchedulerConfig()
        scheduling.enable_prefix_caching = False
        # A whole prompt a step, as its latency settings have it.
        scheduling.max_num_batched_tokens = spec.capacity * spec.sequences + 1
        options = {"INFERENCE_NUM_THREADS": spec.threads} if spec.threads else {}
        self._pipeline = self._genai.LLMPipeline(
            str(spec.model), "CPU", scheduler_config=scheduling, **options
        )

    def decode(self, prompt: Sequence[int], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        metrics = self._generate([prompt], tokens).perf_metrics
        seconds = (metrics.get_generate_duration().mean - metrics.get_ttft().mean) / 1e3
        return Timing(tokens - 1, seconds)

    def prefill(self, prompt: Sequence[int]) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`. To the first token: it gives no logits."""
        return Timing(len(prompt), self._generate([prompt], 1).perf_metrics.get_ttft().mean / 1e3)

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        start = time.perf_counter()
        rows = self._generate(prompts, tokens).tokens
        return Timing(sum(map(len, rows)), time.perf_counter() - start)

    def complete(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        (row,) = self._generate([prompt], tokens).tokens
        return list(row)

    def score(self, ids: Sequence[int]) -> Iterator[Logits]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        raise NotImplementedError(f"its pipeline gives no logits, so none for {len(ids)} tokens")

    def reads(self) -> Reads | None:
        """See :class:`~rbee_bench.peers.peer.Peer`.

        It converts the weights, and does not say what to.
        """
        return None

    def _generate(self, prompts: Sequence[Sequence[int]], tokens: int) -> Any:
        config = self._genai.GenerationConfig()
        config.max_new_tokens = tokens
        config.ignore_eos = True
        config.do_sample = False
        ids = np.asarray(prompts, np.int64)
        inputs = map(self._openvino.Tensor, (ids, np.ones_like(ids)))
        return self._pipeline.generate(self._genai.TokenizedInputs(*inputs), config)
