"""What can go wrong in an export, one class per thing a caller can do about it.

Every message is one line that names the cause and, where there is one, the fix; callers print it
as it is.
"""

from __future__ import annotations


class ExportError(Exception):
    """Base of every error this package raises on purpose."""


class CheckpointError(ExportError):
    """The checkpoint is missing, damaged, or contradicts itself."""


class UnsupportedModel(ExportError):
    """The checkpoint is sound, but holds something this exporter does not know."""
