"""Tests that need an NVIDIA GPU are skipped elsewhere, with the reason."""

from __future__ import annotations

import pytest

from gpu_check import found, place
from rbee_runtime.device import CudaLibrary
from rbee_runtime.errors import DeviceError


@pytest.fixture(scope="session", autouse=True)
def gpu() -> CudaLibrary:
    """The first GPU."""
    missing = found.missing_gpu()
    if missing is not None:
        pytest.skip(missing)
    try:
        return place.library()
    except DeviceError as error:
        pytest.skip(str(error))
