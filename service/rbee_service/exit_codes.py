"""What the process's exit code says to the hive, and the fault that it ends with."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Why the worker ended."""

    STOPPED = 0
    BAD_ARGUMENTS = 2
    MODEL_UNUSABLE = 3
    CALLBACK_REFUSED = 4
    DEVICE_UNUSABLE = 5
    ENGINE_DIED = 6


class WorkerFault(Exception):
    """The worker cannot come up or go on; the message is for the person who started it.

    Attributes:
        code: What the process exits with.
    """

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
