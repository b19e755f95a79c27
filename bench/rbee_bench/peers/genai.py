"""ONNX Runtime GenAI: the dequantised weights through its own builder, and its own loop."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rbee_bench.peers.dense import whole_directory
from rbee_bench.peers.onnx_reads import matrix_operations, weight_bytes
from rbee_bench.peers.peer import (
    Logits,
    Reads,
    Spec,
    Timing,
    complete_steps,
    score_steps,
    timed_prefill,
)


class GenaiPeer:
    """The builder's int4 model at its defaults, in the library's generator.

    Attributes:
        version: See :class:`~rbee_bench.peers.peer.Peer`.
    """

    def __init__(self, spec: Spec) -> None:
        self._genai: Any = importlib.import_module("onnxruntime_genai")
        self._genai.disable_telemetry_events()
        self.version = f"onnxruntime-genai {version('onnxruntime-genai')}"
        self._directory = _built(spec.model, spec.workspace)
        config = self._genai.Config(str(self._directory))
        if spec.threads:
            threads = {"session_options": {"intra_op_num_threads": spec.threads}}
            config.overlay(json.dumps({"model": {"decoder": threads}}))
        self._model = self._genai.Model(config)
        self._capacity = spec.capacity
        self._generator: Any = None

    def decode(self, prompt: Sequence[int], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        generator = self._started(prompt)
        generator.generate_next_token()
        count, start = 0, time.perf_counter()
        while count < tokens - 1 and not generator.is_done():
            generator.generate_next_token()
            count += 1
        return Timing(count, time.perf_counter() - start)

    def prefill(self, prompt: Sequence[int]) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return timed_prefill(self, prompt)

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        """See :class:`~rbee_bench.peers.peer.Peer`. It has no way to go on past an end of text."""
        start = time.perf_counter()
        params = self._genai.GeneratorParams(self._model)
        longest = len(prompts[0]) + tokens
        params.set_search_options(
            max_length=longest, min_length=longest, do_sample=False, batch_size=len(prompts)
        )
        generator = self._genai.Generator(self._model, params)
        generator.append_tokens(np.asarray(prompts, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        seconds = time.perf_counter() - start
        new = sum(len(generator.get_sequence(row)) for row in range(len(prompts)))
        return Timing(new - len(prompts) * len(prompts[0]), seconds)

    def complete(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return complete_steps(self, prompt, tokens)

    def score(self, ids: Sequence[int]) -> Iterator[Logits]:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        return score_steps(self, ids)

    def reads(self) -> Reads:
        """See :class:`~rbee_bench.peers.peer.Peer`."""
        config = json.loads((self._directory / "genai_config.json").read_text())["model"]["decoder"]
        heads = config["num_hidden_layers"] * config["num_key_value_heads"]
        # On the CPU, the builder's int4 models keep their cache in fp32.
        graph, position = self._directory / config["filename"], 2 * heads * config["head_size"] * 4
        return Reads(weight_bytes(graph), position, matrix_operations(graph), "int8")

    def begin(self, prompt: Sequence[int]) -> Logits:
        """See :class:`~rbee_bench.peers.peer.Stepper`."""
        self._generator = self._started(prompt)
        return self._logits()

    def step(self, token: int) -> Logits:
        """See :class:`~rbee_bench.peers.peer.Stepper`."""
        self._generator.append_tokens(np.array([token], np.int32))
        return self._logits()

    def _started(self, prompt: Sequence[int]) -> Any:
        params = self._genai.GeneratorParams(self._model)
        params.set_search_options(max_length=self._capacity, do_sample=False)
        generator = self._genai.Generator(self._model, params)
        generator.append_tokens(np.asarray(prompt, np.int32))
        return generator

    def _logits(self) -> Logits:
        logits: Logits = np.asarray(self._generator.get_logits(), np.float32).reshape(-1)
        return logits


def _built(gguf: Path, workspace: Path) -> Path:
    target = workspace / "genai-int4"
    if not target.is_dir():
        for needed in ("onnx", "torch", "transformers"):
            if importlib.util.find_spec(needed) is None:
                raise ImportError(f"its builder needs {needed}", name=needed)
        with whole_directory(target) as directory:
            # In a process of its own: torch stays out of the one that is timed.
            command = [sys.executable, "-m", "rbee_bench.peers.genai_builder"]
            done = subprocess.run(
                [*command, str(gguf), str(workspace), str(directory)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise RuntimeError(f"its builder failed: {done.stderr.strip().splitlines()[-1]}")
    return target
