"""A processor with a small cache: what is measured beside memory is measured quickly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rbee_bench import limits


@pytest.fixture(autouse=True, scope="package")
def small_cache() -> Iterator[None]:
    """Make the buffer that is read as large as it is at least.

    Reading four times the largest cache of a server takes seconds, in every test that measures.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "largest_cache", lambda: 1 << 20)
        yield
