"""Instants as they stand on the wire."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339_now() -> str:
    """Return the present, UTC, to the millisecond, e.g. ``2025-01-31T12:00:00.000Z``."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
