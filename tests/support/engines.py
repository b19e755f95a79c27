"""Tests that build engines need a package that runs without a GPU."""

from __future__ import annotations

import importlib.util
import os

import pytest


def require_engine_builder() -> None:
    """Skip where the package is not installed; in continuous integration it has to be."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        missing = "the extra 'tensorrt-rtx' is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
