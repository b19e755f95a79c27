"""A processor of one core with a small cache, beside which is measured quickly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from rbee_bench import limits
from rbee_bench.machine import Machine


@pytest.fixture(autouse=True, scope="package")
def small_cache() -> Iterator[None]:
    """Make the buffer that is read as large as it is at least.

    Reading four times the largest cache of a server takes seconds, in every test that measures.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "largest_cache", lambda: 1 << 20)
        yield


@pytest.fixture(autouse=True, scope="package")
def one_core() -> Iterator[None]:
    """Have engines compute with one thread each.

    The threads of torch and ONNX Runtime spin while they wait for each other, on cores that other
    tests have: a small model's step then takes more than a hundred times as long.
    """
    with pytest.MonkeyPatch.context() as patch:
        this = replace(Machine.this(), cores=1)
        patch.setattr(Machine, "this", lambda: this)
        yield
