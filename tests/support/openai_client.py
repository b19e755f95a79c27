"""The official client of the OpenAI API, of a worker with a real model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
from stand_in import ready, running

from rbee_service.model_loader import load_model


@asynccontextmanager
async def asked_of(artifact: Path, directory: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """Serve an artifact as ``tiny``, in two slots, and give a client that asks once."""
    flags = ("--model", str(artifact), "--model-ref", "tiny", "--slots", "2")
    async with running(directory, load_model, *flags) as worker:
        await ready(worker)
        async with openai.AsyncOpenAI(
            base_url=f"{worker.url}/v1", api_key="none", max_retries=0, timeout=30
        ) as client:
            yield client
