"""Serves a model over HTTP as server-sent events, and reports to the hive that started it."""

from __future__ import annotations

__version__ = "0.1.0"
