"""Tests that need an NVIDIA GPU are skipped elsewhere, with the reason."""

from __future__ import annotations

import pytest

from rbee_runtime.device import CudaLibrary
from rbee_runtime.errors import DeviceError


@pytest.fixture(scope="session", autouse=True)
def gpu() -> CudaLibrary:
    """The first GPU."""
    try:
        return CudaLibrary.load(0)
    except DeviceError as error:
        pytest.skip(str(error))
