"""What becomes of checkpoints that may be damaged."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

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


def refusal(model: Path, out: Path) -> str:
    """Return the one line that a model is refused with."""
    with pytest.raises(ExportError) as caught:
        export(open_checkpoint(model), out, Options("fp32"), "0" * 64)
    assert not out.exists()
    line = str(caught.value)
    assert "\n" not in line
    return line
