"""How fast torch is on models of the same shapes, as transformers writes them down."""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from gpu_check.child import Report, Skipped
from gpu_check.shapes import CONTEXT, LENGTH, SHAPES, STEPS

DEVICE, DTYPE = "cuda", "float16"
EAGER_BATCHES, COMPILED_BATCHES = (1, 8, 64), (1,)
_WARM = 3


def eager(report: Report, model: str) -> None:
    """Time decoding and one prompt with the model's own operators, called one by one."""
    torch, decoder = _decoder(report, model)
    with torch.inference_mode():
        for batch in EAGER_BATCHES:
            _say(report, (model, "eager torch"), "decode", batch, _decode(torch, decoder, batch))
        _say(report, (model, "eager torch"), f"prefill of {LENGTH}", 1, _prefill(torch, decoder))


def compiled(report: Report, model: str) -> None:
    """Time decoding with ``torch.compile``, with CUDA graphs. The first call takes a minute."""
    torch, decoder = _decoder(report, model)
    began = time.perf_counter()
    # Only what decodes: a cache that is made while compiling is not taken to stay where it is.
    forward = torch.compile(decoder.forward, mode="reduce-overhead")
    with torch.inference_mode():
        for batch in COMPILED_BATCHES:
            try:
                rate = _decode(torch, decoder, batch, forward)
            except Exception as error:  # it wants compilers, and says so in many ways
                raise Skipped(f"torch.compile does not work here: {error}") from error
            _say(report, (model, "torch.compile"), "decode", batch, rate)
    report.row(what="compiled and timed", seconds=time.perf_counter() - began)


def _decoder(report: Report, model: str) -> tuple[Any, Any]:
    """Return torch, and a model of random weights on the GPU."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    shape = SHAPES[model]
    if DEVICE == "cuda":
        if not torch.cuda.is_available():
            raise Skipped(f"torch {torch.__version__} finds no GPU that it can use")
        free, _ = torch.cuda.mem_get_info()
        if free < 1.1 * shape.nbytes:
            raise Skipped(
                f"the weights take {shape.nbytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB of the "
                "GPU's memory are free"
            )
    began = time.perf_counter()
    settings = {key: value for key, value in shape.config().items() if key != "model_type"}
    config = transformers.LlamaConfig(**settings, attn_implementation="sdpa")
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, DTYPE))
    try:
        with torch.device(DEVICE):
            decoder = transformers.LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    version = f"torch {torch.__version__}, transformers {transformers.__version__}"
    report.row(what=f"made, with {version}", seconds=time.perf_counter() - began)
    return torch, decoder


def _decode(torch: Any, decoder: Any, batch: int, forward: Any = None) -> float:
    """Return the tokens a second of so many sequences, after a prompt of each."""
    ids = torch.randint(1, decoder.config.vocab_size, (batch, CONTEXT), device=DEVICE)
    cache = _cache(decoder, CONTEXT + 1 + _WARM + STEPS)
    at = torch.arange(CONTEXT, device=DEVICE)
    token = _step(decoder, ids, cache, at)

    def steps(count: int) -> None:
        nonlocal token, at
        at = at[-1:]
        for _ in range(count):
            at = at + 1
            token = _step(forward or decoder, token, cache, at)

    steps(_WARM)
    return batch * STEPS / _seconds(torch, lambda: steps(STEPS))


def _prefill(torch: Any, decoder: Any) -> float:
    """Return the tokens a second at which one prompt is read."""
    ids = torch.randint(1, decoder.config.vocab_size, (1, LENGTH), device=DEVICE)
    at = torch.arange(LENGTH, device=DEVICE)
    times = []
    for _ in range(_WARM):
        cache = _cache(decoder, LENGTH)
        times.append(_seconds(torch, partial(_step, decoder, ids, cache, at)))
    return LENGTH / min(times)


def _step(forward: Any, ids: Any, cache: Any, at: Any) -> Any:
    """Run ``[rows, tokens]`` ids at some positions and return the likeliest token after each."""
    # What torch.compile has captured is overwritten by the next call.
    output = forward(ids.clone(), **cache, use_cache=True, cache_position=at, logits_to_keep=1)
    return output.logits[:, -1].argmax(-1, keepdim=True)


def _cache(decoder: Any, length: int) -> dict[str, Any]:
    """Return room for so many positions, at fixed places as a captured graph needs it.

    No more than that: each step attends to all of them. It is called what this version of
    transformers calls it.
    """
    transformers: Any = importlib.import_module("transformers")
    cache = transformers.StaticCache(config=decoder.config, max_cache_len=length)
    names = inspect.signature(type(decoder).forward).parameters
    return {"cache" if "cache" in names else "past_key_values": cache}


def _seconds(torch: Any, work: Callable[[], object]) -> float:
    wait = torch.cuda.synchronize if DEVICE == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def _say(report: Report, who: tuple[str, str], what: str, batch: int, rate: float) -> None:
    model, by = who
    report.row(model=model, precision="fp16", by=by, what=what, batch=batch, rate=rate)
