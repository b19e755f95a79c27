"""A GPU that fails or is full, in the contract's codes."""

from __future__ import annotations

from rbee_runtime.errors import DeviceLost, InferenceFailed, OutOfMemory, RuntimeFault
from rbee_service.errors import ErrorCode
from rbee_service.events import EventError
from rbee_service.faults import failure, incomplete


def codes(fault: RuntimeFault) -> tuple[EventError, ErrorCode, int, bool]:
    failed = failure(fault)
    answer = incomplete(failed)
    assert answer is not None
    assert answer.message == str(fault)
    return failed.code, answer.code, answer.status, answer.code.retriable


def test_codes() -> None:
    lost = (EventError.INFERENCE_FAILED, ErrorCode.CUDA_ERROR, 500, True)
    assert codes(DeviceLost("the GPU is gone")) == lost
    full = (EventError.VRAM_OOM, ErrorCode.INSUFFICIENT_VRAM, 507, False)
    assert codes(OutOfMemory("no bytes left")) == full
    assert codes(InferenceFailed("an operator"))[1] is ErrorCode.INTERNAL
