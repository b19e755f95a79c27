"""vLLM: the dequantised weights in its offline engine."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rbee_bench.peers.dense import dense_directory, dense_reads
from rbee_bench.peers.peer import Logits, Reads, Spec, Timing

_BLOCK = 128
"""Positions of a block of its cache on a CPU; on a GPU it has smaller ones."""

_ITEM_BYTES = 2
"""Of a number in its cache: it takes a type of 16 bits where weights have 32."""


class VllmPeer:
    """The engine at its defaults, compiled, with room in its cache for what is asked at a time.

    Only that it remembers no prompt is not its default: what is timed is to be computed. Of weights
    in fp32 it makes what it takes for best where it runs: bf16 on a CPU, on a GPU fp16 or bf16.

    Attributes:
        version: See :class:`~rbee_bench.peers.peer.Peer`.
    """

    def __init__(self, spec: Spec) -> None:
        # In this process, not in one of its own: who stops this one is to stop all of it. What it
        # saves by passing requests on to another process does not count where they come in turn.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        self._vllm: Any = importlib.import_module("vllm")
        self._directory = dense_directory(spec.model, spec.workspace)
        self._llm = self._vllm.LLM(
            str(self._directory),
            skip_tokenizer_init=True,
            enable_prefix_caching=False,
            max_model_len=spec.capacity,
            max_num_seqs=spec.sequences,
            kv_cache_memory_bytes=cache_bytes(self._directory, spec.capacity, spec.sequences),
        )
        config = self._llm.llm_engine.vllm_config
        kind = str(config.model_config.dtype).removeprefix("torch.")
        place = config.device_config.device_type
        self._item_bytes: int = config.model_config.dtype.itemsize
        self.version = f"vllm {self._vllm.__version__} on {place} in {kind}"
        self._number = 0

    def decode(self, prompt: Sequence[int], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        _, first, last, found = self._timed(prompt, tokens)
        return Timing(len(found) - 1, last - first)

    def prefill(self, prompt: Sequence[int]) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`. To the first token: it gives no logits."""
        began, first, _, _ = self._timed(prompt, 1)
        return Timing(len(prompt), first - began)

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        start = time.perf_counter()
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self._llm.generate(asked, self._params(tokens), use_tqdm=False)
        seconds = time.perf_counter() - start
        return Timing(sum(len(one.outputs[0].token_ids) for one in outputs), seconds)

    def complete(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        *_, found = self._timed(prompt, tokens)
        return found

    def score(self, ids: Sequence[int]) -> Iterator[Logits]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        raise NotImplementedError(f"it gives no logits, so none for {len(ids)} tokens")

    def reads(self) -> Reads:
        """See :class:`~rbee_bench.peers.peer.Peer`. No limit is measured of 16-bit arithmetic."""
        return dense_reads(self._directory, self._item_bytes, None)

    def _timed(self, prompt: Sequence[int], tokens: int) -> tuple[float, float, float, list[int]]:
        """Return when it began, had the first token, had the last, and the tokens."""
        engine, self._number = self._llm.llm_engine, self._number + 1
        first = last = 0.0
        found: list[int] = []
        began = time.perf_counter()
        asked = {"prompt_token_ids": list(prompt)}
        engine.add_request(str(self._number), asked, self._params(tokens))
        while engine.has_unfinished_requests():
            for output in engine.step():
                last = time.perf_counter()
                first = first or last
                found = list(output.outputs[0].token_ids)
        return began, first, last, found

    def _params(self, tokens: int) -> Any:
        return self._vllm.SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )


def cache_bytes(directory: Path, capacity: int, sequences: int) -> int:
    """Return what a cache takes for so many sequences of so many positions at a time.

    Args:
        directory: The model.
        capacity: Positions of a sequence.
        sequences: At a time.
    """
    position = dense_reads(directory, _ITEM_BYTES, None).position
    # One block is kept empty.
    blocks = sequences * -(-capacity // _BLOCK) + 1
    return blocks * _BLOCK * position
