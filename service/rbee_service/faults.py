"""How the runtime's faults are told to a client, before and during an inference."""

from __future__ import annotations

from http import HTTPStatus

from rbee_runtime.errors import (
    ContextOverflow,
    DeadlineExceeded,
    DeviceLost,
    EngineClosed,
    InvalidRequest,
    OutOfMemory,
    QueueFull,
    RuntimeFault,
)
from rbee_service.errors import ApiError, ErrorCode, FieldFault, InvalidFields
from rbee_service.events import End, EventError, Failed, StopReason


def refusal(fault: RuntimeFault) -> ApiError | InvalidFields:
    """Return the answer to a request that the backend would not accept."""
    message = str(fault)
    match fault:
        case ContextOverflow():
            rule = f"context_length({fault.context_length})"
            return InvalidFields([FieldFault(fault.field, rule, message)])
        case InvalidRequest():
            return InvalidFields([FieldFault(fault.field, "servable", message)])
        case QueueFull():
            return ApiError(ErrorCode.INSUFFICIENT_RESOURCES, message, retry_after=1)
        case OutOfMemory():
            return ApiError(ErrorCode.INSUFFICIENT_VRAM, message)
        case DeadlineExceeded():
            return deadline_passed()
        case EngineClosed():
            return ApiError(ErrorCode.WORKER_UNHEALTHY, message)
    return ApiError(ErrorCode.INTERNAL, message)


def deadline_passed() -> ApiError:
    """Return the answer to a request whose deadline passed before any work was done."""
    return ApiError(
        ErrorCode.INFERENCE_TIMEOUT,
        "the deadline passed before the work began",
        status=HTTPStatus.GATEWAY_TIMEOUT,
    )


def incomplete(ended: End | Failed) -> ApiError | None:
    """Return the answer to a request whose answer was to come whole; ``None`` if it is whole."""
    match ended:
        case End(stop_reason=StopReason.CANCELLED):
            return ApiError(
                ErrorCode.INSUFFICIENT_RESOURCES, "the request was cancelled", retry_after=5
            )
        case End():
            return None
        case Failed(device_lost=True):
            return ApiError(ErrorCode.CUDA_ERROR, ended.message)
        case Failed(EventError.VRAM_OOM):
            return ApiError(ErrorCode.INSUFFICIENT_VRAM, ended.message)
        case Failed(EventError.TIMEOUT):
            return ApiError(ErrorCode.INFERENCE_TIMEOUT, ended.message)
        case Failed(EventError.INVALID_REQUEST):
            return ApiError(ErrorCode.INVALID_REQUEST, ended.message)
    return ApiError(ErrorCode.INTERNAL, ended.message)


def failure(fault: RuntimeFault) -> Failed:
    """Return the event that ends an inference which the backend accepted and could not finish."""
    match fault:
        case OutOfMemory():
            code = EventError.VRAM_OOM
        case DeadlineExceeded():
            code = EventError.TIMEOUT
        case InvalidRequest():
            code = EventError.INVALID_REQUEST
        case _:
            code = EventError.INFERENCE_FAILED
    return Failed(code, str(fault), isinstance(fault, DeviceLost))
