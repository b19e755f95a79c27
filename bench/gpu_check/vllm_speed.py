"""How fast vLLM is on models of the same shapes, where its program is on the path."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from gpu_check import vllm_timed
from gpu_check.child import Report, Skipped
from gpu_check.shapes import CAPACITY, CONTEXT, LENGTH, SHAPES, STEPS
from rbee_bench import vllm_program
from rbee_bench.local_process import last_words

DTYPE = "float16"
BATCHES = (1, 8, 64)
_WARM = 3


def measure(report: Report, model: str) -> None:
    """Time decoding and one prompt in vLLM's engine, compiled and captured as is its default."""
    try:
        python = vllm_program.interpreter()
    except LookupError as error:
        raise Skipped(f"not installed: {error}") from None
    began = time.perf_counter()
    shape = SHAPES[model]
    # As transformers writes it; the weights are made up.
    config = {"architectures": ["LlamaForCausalLM"], "torch_dtype": DTYPE, **shape.config()}
    directory = report.directory / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    position = 4 * shape.layers * shape.kv_heads * (shape.hidden // shape.heads)
    room = BATCHES[-1] * (CONTEXT + _WARM + STEPS + _BLOCK) + CAPACITY
    asked = {
        "model": str(directory),
        "dtype": DTYPE,
        "vocab": shape.vocab,
        "batches": BATCHES,
        "context": CONTEXT,
        "length": LENGTH,
        "warm": _WARM,
        "steps": STEPS,
        "longest": CAPACITY,
        "cache": room * position,
    }
    with tempfile.TemporaryFile() as noise:
        process = subprocess.Popen(
            # As a text: beside the file are modules whose names others have, too.
            [str(python), "-c", Path(vllm_timed.__file__).read_text("utf-8"), json.dumps(asked)],
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
            env={**os.environ, **vllm_program.variables(python, 0)},
        )
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if "version" in said:
                what = f"opened and compiled, with vllm {said['version']}"
                report.row(what=what, seconds=time.perf_counter() - began)
            else:
                report.row(model=model, precision="fp16", by="vLLM", **said)
        if process.wait() != 0:
            raise Skipped(f"vLLM does not work here: {last_words(noise) or '(silent)'}")


_BLOCK = 128
"""Positions of the largest blocks that its cache is made of."""
