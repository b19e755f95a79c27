"""llama.cpp, by the low-level calls of its Python binding: nothing between its loop and ours."""

from __future__ import annotations

import ctypes
import importlib
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from rbee_bench.peers.peer import (
    Logits,
    Reads,
    Spec,
    Timing,
    complete_steps,
    score_steps,
    timed_prefill,
    timed_steps,
)

_INSTRUCTIONS = ("AVX2", "AVX512", "AVX512_VNNI", "AMX_INT8", "NEON")
"""Those that decide how fast it is; without the AMX of a processor it takes twice the time."""


def describe(binding: Any) -> str:
    """Return the version of llama.cpp's Python binding, and what its library was compiled for."""
    told = binding.llama_print_system_info().decode()
    has = {name.rpartition(":")[2].strip() for name in told.split(" = 1 |")}
    chosen = ", ".join(name for name in _INSTRUCTIONS if name in has)
    return f"llama-cpp-python {version('llama-cpp-python')} ({chosen})"


class LlamaCppPeer:
    """A GGUF file in a context of its own.

    Its defaults are its best settings for one sequence (flash attention by its own choice, pages
    mapped), but for the cache, which is as long as needed, and the threads.

    Attributes:
        version: See :class:`~rbee_bench.peers.peer.Peer`.
    """

    def __init__(self, spec: Spec) -> None:
        self._file = spec.model
        self._llama: Any = importlib.import_module("llama_cpp")
        self.version = describe(self._llama)
        self._silence = self._llama.llama_log_callback(lambda *_: None)
        self._llama.llama_log_set(self._silence, None)
        self._llama.llama_backend_init()
        self._model = self._llama.llama_model_load_from_file(
            str(spec.model).encode(), self._llama.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"cannot load {spec.model}")
        params = self._llama.llama_context_default_params()
        params.n_ctx = spec.capacity * spec.sequences
        params.n_seq_max = spec.sequences
        params.n_threads = params.n_threads_batch = spec.threads
        self._context = self._llama.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"cannot make a context of {spec.capacity} tokens")
        vocab = self._llama.llama_model_get_vocab(self._model)
        self._vocab = self._llama.llama_vocab_n_tokens(vocab)

    def decode(self, prompt: Sequence[int], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return timed_steps(self, prompt, tokens)

    def prefill(self, prompt: Sequence[int]) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return timed_prefill(self, prompt)

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        start = time.perf_counter()
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        limit = self._llama.llama_n_batch(self._context)
        latest: list[int] = []
        # As many whole prompts at a time as a batch holds.
        step = max(1, limit // len(prompts[0]))
        for first in range(0, len(prompts), step):
            rows = range(first, min(first + step, len(prompts)))
            latest += self._run_rows([(row, 0, prompts[row]) for row in rows])
        for past in range(len(prompts[0]), len(prompts[0]) + tokens - 1):
            latest = self._run_rows([(row, past, [token]) for row, token in enumerate(latest)])
        return Timing(len(prompts) * tokens, time.perf_counter() - start)

    def complete(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return complete_steps(self, prompt, tokens)

    def score(self, ids: Sequence[int]) -> Iterator[Logits]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return score_steps(self, ids)

    def reads(self) -> Reads:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        from gguf import GGUFReader  # no start is to wait for it

        model, llama = self._model, self._llama
        reader = GGUFReader(self._file)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        if "output.weight" in tensors:
            del tensors["token_embd.weight"]
        # Of a layer's experts a token is given some.
        told = {name.partition(".")[2]: field for name, field in reader.fields.items()}
        given = 1.0
        if "expert_count" in told:
            given = told["expert_used_count"].contents() / told["expert_count"].contents()
        shares = {name: given if "_exps." in name else 1.0 for name in tensors}
        weights = round(sum(int(t.n_bytes) * shares[name] for name, t in tensors.items()))
        matrices = ((name, t) for name, t in tensors.items() if len(t.shape) > 1)
        operations = round(sum(2 * int(t.n_elements) * shares[name] for name, t in matrices))
        width = llama.llama_model_n_embd(model) // llama.llama_model_n_head(model)
        if "attention.key_length" in told:
            width = told["attention.key_length"].contents()
        heads = llama.llama_model_n_layer(model) * llama.llama_model_n_head_kv(model)
        return Reads(weights, 2 * heads * width * _CACHE_ITEM, operations, "int8")

    def begin(self, prompt: Sequence[int]) -> Logits:
        """See :class:`~rbee_bench.peers.peer.Stepper`."""
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        return self._run(prompt)

    def step(self, token: int) -> Logits:
        """See :class:`~rbee_bench.peers.peer.Stepper`."""
        return self._run([token])

    def _run_rows(self, rows: Sequence[tuple[int, int, Sequence[int]]]) -> list[int]:
        """Run tokens of several sequences, each from a position on; return what follows each."""
        count = sum(len(tokens) for _, _, tokens in rows)
        batch = self._llama.llama_batch_init(count, 0, 1)
        try:
            at, ends = 0, []
            for sequence, past, tokens in rows:
                for offset, token in enumerate(tokens):
                    batch.token[at] = token
                    batch.pos[at] = past + offset
                    batch.n_seq_id[at] = 1
                    batch.seq_id[at][0] = sequence
                    batch.logits[at] = offset == len(tokens) - 1
                    at += 1
                ends.append(at - 1)
            batch.n_tokens = count
            code = self._llama.llama_decode(self._context, batch)
            if code != 0:
                raise RuntimeError(f"llama_decode returned {code}")
            return [int(self._logits(end).argmax()) for end in ends]
        finally:
            self._llama.llama_batch_free(batch)

    def _logits(self, row: int) -> Logits:
        pointer = self._llama.llama_get_logits_ith(self._context, row)
        logits: Logits = np.ctypeslib.as_array(pointer, (self._vocab,))
        return logits

    def _run(self, tokens: Sequence[int]) -> Logits:
        limit = self._llama.llama_n_batch(self._context)
        for first in range(0, len(tokens), limit):
            self._run_some(tokens[first : first + limit])
        return self._logits(-1)

    def _run_some(self, tokens: Sequence[int]) -> None:
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = self._llama.llama_batch_get_one(ids, len(tokens))
        code = self._llama.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")


_CACHE_ITEM = 2
"""Bytes of a number in its cache, which is fp16 unless told otherwise."""
