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
from rbee_service.events import EventError, Failed


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


def cancelled() -> ApiError:
    """Return the answer to a request whose answer was to come whole, and was cancelled."""
    return ApiError(ErrorCode.INSUFFICIENT_RESOURCES, "the request was cancelled", retry_after=5)


def broken_off(fault: RuntimeFault) -> ApiError:
    """Return the answer to a request whose answer was to come whole, and could not be finished.

    Its codes tell more apart than those of the events do.
    """
    match fault:
        case DeviceLost():
            code = ErrorCode.CUDA_ERROR
        case OutOfMemory():
            code = ErrorCode.INSUFFICIENT_VRAM
        case DeadlineExceeded():
            code = ErrorCode.INFERENCE_TIMEOUT
        case InvalidRequest():
            code = ErrorCode.INVALID_REQUEST
        case _:
            code = ErrorCode.INTERNAL
    return ApiError(code, str(fault))


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
    return Failed(code, str(fault))
