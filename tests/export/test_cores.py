"""Work in threads: all of it, a few items at a time, and the first error ends it."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Lock

import pytest

from rbee_export.cores import each


def test_every_item_has_its_turn() -> None:
    done: set[int] = set()
    each(done.add, range(500))
    assert done == set(range(500))
    each(done.add, ())


def test_few_items_are_taken_before_they_are_worked_on() -> None:
    finished, taken, most, lock = 0, 0, 0, Lock()

    def items() -> Iterator[int]:
        nonlocal taken, most
        for item in range(100):
            with lock:
                taken += 1
                most = max(most, taken - finished)
            yield item

    def work(_: int) -> None:
        nonlocal finished
        with lock:
            finished += 1

    each(work, items())
    assert finished == 100
    assert most <= 5  # one for each of four threads, and the next


def test_an_error_of_the_work_comes_out_and_ends_it() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 3:
            raise ValueError("the third")

    with pytest.raises(ValueError, match="the third"):
        each(work, range(1000))
    assert len(begun) < 20


def test_an_error_of_the_items_comes_out_once_work_has_ended() -> None:
    ended = Event()

    def items() -> Iterator[int]:
        yield 0
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        each(lambda _: ended.set(), items())
    assert ended.is_set()
