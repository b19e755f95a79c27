"""Requests that have a worker touch all the memory which requests can make it use."""

from __future__ import annotations

import asyncio
import random

from rbee_bench.sse_client import StreamFault, ask
from rbee_bench.worker_process import StartFault
from rbee_runtime.artifact import Manifest

_ROUNDS = 2


async def fill(port: int, manifest: Manifest, model: str, slots: int, context: int) -> None:
    """Fill every slot and every kept block, with the widest batches and the largest chunks.

    Args:
        port: Of a worker that nobody else uses meanwhile, and that asks for no token.
        manifest: Of the artifact it serves.
        model: What it calls that.
        slots: That it has.
        context: Positions of each.

    Raises:
        StartFault: It did not complete what was asked for.
    """
    dice = random.Random(0)
    vocab = manifest.shapes.vocab

    def prompt(tokens: int) -> list[int]:
        return [dice.randrange(vocab) for _ in range(tokens)]

    async def complete(ids: list[int], tokens: int) -> None:
        body: dict[str, object] = {
            "model": model,
            "prompt": ids,
            "max_tokens": tokens,
            "temperature": 0,
            # Each goes on to the end of its slot.
            "logit_bias": {str(token): -100 for token in manifest.eos_token_ids},
        }
        try:
            answer = await ask(port, "/v1/completions", body)
        except (StreamFault, OSError) as fault:
            raise StartFault(f"a prompt was not completed: {fault}") from fault
        if answer.status != 200:
            raise StartFault(f"a prompt was answered {answer.status}: {answer.body[:200]!r}")

    half = context // 2
    for _ in range(_ROUNDS):
        # Nobody decodes: each prompt is one chunk, or as few as there can be.
        await asyncio.gather(*(complete(prompt(context - 1), 1) for _ in range(2 * slots)))
        # All slots decode together, to their ends.
        await asyncio.gather(*(complete(prompt(half), half) for _ in range(slots)))
        # Two that enter beside one that decodes, the later one mostly known: it overtakes the
        # other, and they exchange their slots.
        known = prompt(context - 1)
        await complete(known, 1)
        decoding = asyncio.create_task(complete(prompt(2), context - 2))
        await asyncio.sleep(0.1)
        await asyncio.gather(complete(prompt(context - 1), 1), complete(known, 1), decoding)
