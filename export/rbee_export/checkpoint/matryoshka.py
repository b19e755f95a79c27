"""Whether the beginnings of a model's vectors are vectors too (Kusupati et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rbee_export.errors import CheckpointError, shown


def read_matryoshka(
    file: Path, settings: Mapping[str, Any], dim: int
) -> tuple[int, ...] | Literal["any"]:
    """Return the lengths below ``dim`` that a model was trained for, none where it was not.

    There is no standard; these are the settings that other servers read.

    Args:
        file: The ``config.json``.
        settings: Its content.
        dim: Width of a whole vector.

    Raises:
        CheckpointError: It lists what are no lengths.
    """
    listed = settings.get("matryoshka_dimensions")
    if listed is None:
        return "any" if settings.get("is_matryoshka") is True else ()
    if not isinstance(listed, list) or not all(
        type(length) is int and 1 <= length <= dim for length in listed
    ):
        raise CheckpointError(
            f"{file}: matryoshka_dimensions {shown(listed)} is no list of numbers from 1 to {dim}"
        )
    return tuple(sorted({length for length in listed if length < dim}))
