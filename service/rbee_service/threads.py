"""Blocking calls of unknown length, kept off the event loop and out of the way of its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

ResultT = TypeVar("ResultT")


async def in_daemon_thread(call: Callable[[], ResultT], name: str) -> ResultT:
    """Run ``call`` in a thread of its own; cancelling stops the waiting, not the thread.

    Unlike an executor's threads, this one is not waited for when the event loop closes.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[ResultT] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            settle = partial(future.set_exception, error)
        else:
            settle = partial(future.set_result, result)
        # The loop may have closed meanwhile, and with it whoever waited.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if future.done() else settle())

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
