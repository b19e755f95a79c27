"""What becomes of checkpoints that may be damaged."""

from __future__ import annotations

import warnings
from pathlib import Path

from rbee_export import ExportError, Options, export, open_checkpoint


def refused_or_exported(model: Path, out: Path) -> None:
    """Export a model, or get a line that says why not; warnings are neither."""
    said = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            export(open_checkpoint(model), out, Options("fp32"), "0" * 64)
        except (ExportError, MemoryError) as error:
            said = str(error)
    assert "\n" not in said
