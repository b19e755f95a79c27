"""llama.cpp, by the low-level calls of its Python binding: nothing between its loop and ours."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from rbee_bench.peers.peer import Logits, Spec, Timing, complete_steps, score_steps, timed_steps


class LlamaCppPeer:
    """A GGUF file in a context of its own.

    Its defaults are its best settings for one sequence (flash attention by its own choice, pages
    mapped), but for the cache, which is as long as needed, and the threads.

    Attributes:
        version: See :class:`~rbee_bench.peers.peer.Peer`.
    """

    def __init__(self, spec: Spec) -> None:
        self._llama: Any = importlib.import_module("llama_cpp")
        self.version = f"llama-cpp-python {version('llama-cpp-python')}"
        self._silence = self._llama.llama_log_callback(lambda *_: None)
        self._llama.llama_log_set(self._silence, None)
        self._llama.llama_backend_init()
        self._model = self._llama.llama_model_load_from_file(
            str(spec.model).encode(), self._llama.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"cannot load {spec.model}")
        params = self._llama.llama_context_default_params()
        params.n_ctx = spec.capacity
        params.n_threads = params.n_threads_batch = spec.threads
        self._context = self._llama.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"cannot make a context of {spec.capacity} tokens")
        vocab = self._llama.llama_model_get_vocab(self._model)
        self._vocab = self._llama.llama_vocab_n_tokens(vocab)

    def decode(self, prompt: Sequence[int], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return timed_steps(self, prompt, tokens)

    def complete(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return complete_steps(self, prompt, tokens)

    def score(self, ids: Sequence[int]) -> Iterator[Logits]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return score_steps(self, ids)

    def begin(self, prompt: Sequence[int]) -> Logits:
        """See :class:`~rbee_bench.peers.peer.Stepper`."""
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        return self._run(prompt)

    def step(self, token: int) -> Logits:
        """See :class:`~rbee_bench.peers.peer.Stepper`."""
        return self._run([token])

    def _run(self, tokens: Sequence[int]) -> Logits:
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = self._llama.llama_batch_get_one(ids, len(tokens))
        code = self._llama.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")
        pointer = self._llama.llama_get_logits_ith(self._context, -1)
        logits: Logits = np.ctypeslib.as_array(pointer, (self._vocab,))
        return logits
