"""Times vLLM's engine, in its own environment, where there is nothing of ours.

What is asked is the one argument, in JSON; what is found goes to stdout, a line of JSON each.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import time
from typing import Any


def main(asked: dict[str, Any]) -> None:
    """Say the version, and then each rate as it is known."""
    # Libraries print; what is found keeps the real stdout for itself.
    findings = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # One process: its steps are timed, not how it is told of them.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    vllm: Any = importlib.import_module("vllm")
    llm = vllm.LLM(
        asked["model"],
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype=asked["dtype"],
        enable_prefix_caching=False,
        max_model_len=asked["longest"],
        max_num_seqs=max(asked["batches"]),
        kv_cache_memory_bytes=asked["cache"],
    )
    print(json.dumps({"version": vllm.__version__}), file=findings, flush=True)

    def add(prefix: str, count: int, length: int, tokens: int) -> None:
        params = vllm.SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )
        draw = random.Random(length)
        for number in range(count):
            ids = [draw.randrange(1, asked["vocab"]) for _ in range(length)]
            llm.llm_engine.add_request(f"{prefix}-{number}", {"prompt_token_ids": ids}, params)

    for batch in asked["batches"]:
        add(f"decode-{batch}", batch, asked["context"], 1 + asked["warm"] + asked["steps"])
        rate = _decode(llm.llm_engine, batch, asked["warm"])
        row = {"what": "decode", "batch": batch, "rate": rate}
        print(json.dumps(row), file=findings, flush=True)
    seconds = []
    for number in range(asked["warm"]):
        began = time.perf_counter()
        add(f"prompt-{number}", 1, asked["length"], 1)
        while llm.llm_engine.has_unfinished_requests():
            llm.llm_engine.step()
        seconds.append(time.perf_counter() - began)
    row = {"what": f"prefill of {asked['length']}", "batch": 1}
    print(json.dumps({**row, "rate": asked["length"] / min(seconds)}), file=findings, flush=True)


def _decode(engine: Any, batch: int, warm: int) -> float:
    """Return the tokens a second while all of so many sequences decode."""
    counts: dict[str, int] = {}
    marks: list[tuple[float, int]] = []
    ended = False
    while engine.has_unfinished_requests():
        for output in engine.step():
            counts[output.request_id] = len(output.outputs[0].token_ids)
            ended = ended or output.finished
        if len(counts) == batch and min(counts.values()) > warm and not ended:
            marks.append((time.perf_counter(), sum(counts.values())))
    (began, before), *_, (end, after) = marks
    return (after - before) / (end - began)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
