"""What can go wrong in an export, one class per thing a caller can do about it.

Every message is one line that names the cause and, where there is one, the fix; callers print it
as it is.
"""

from __future__ import annotations

import reprlib


class ExportError(Exception):
    """Base of every error this package raises on purpose."""


class BeingWritten(ExportError):
    """Another process is writing the artifact at this moment."""


class CheckpointError(ExportError):
    """The checkpoint is missing, damaged, or contradicts itself."""


class UnsupportedModel(ExportError):
    """The checkpoint is sound, but holds something this exporter does not know."""


def shown(value: object) -> str:
    """Return what a stranger's file holds in a form that fits into a message: quoted, and short."""
    # A list may be nested so deeply that the plain function fails.
    text = repr(value) if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
