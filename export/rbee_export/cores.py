"""Work shared out to every core, a bounded part of it at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_THREADS = 4
"""More would wait for the interpreter: NumPy lets go of it only while it computes."""


def each(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Do ``work`` for every item, in threads.

    Items are taken as threads have time for them, so that few of them are in memory together.

    Raises:
        Exception: Whatever taking or working on an item raised first; the rest is left.
    """
    threads = min(_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[Future[object]] = deque()
        for item in items:
            if len(begun) == threads:
                begun.popleft().result()
            begun.append(pool.submit(work, item))
        while begun:
            begun.popleft().result()
