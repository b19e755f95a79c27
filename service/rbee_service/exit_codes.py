"""What the process's exit code says to the hive."""

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
