"""Functions that a model may call: how it is told of them, and what it says when it calls them."""

from rbee_runtime.tools.manner import CallManner
from rbee_runtime.tools.reader import Arguments, CallBegun, CallReader, Said, Text

__all__ = ["Arguments", "CallBegun", "CallManner", "CallReader", "Said", "Text"]
