"""Text, and a JSON object, in a file of a model directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rbee_export.checkpoint.own_file import LARGEST_SETTINGS, require_own
from rbee_export.errors import CheckpointError


def read_text(file: Path, largest: int) -> str:
    """Return the text of a file.

    Args:
        file: The file.
        largest: Bytes it may have.

    Raises:
        CheckpointError: It is missing, cannot be read, is no UTF-8, is larger, or is no file of its
            directory.
    """
    try:
        require_own(file, largest)
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; is this a model directory?") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not UTF-8 text ({error})") from error


def read_json(file: Path, *, required: bool = True) -> dict[str, Any]:
    """Return the object a file holds; an empty one for a file that is missing and not required.

    Raises:
        CheckpointError: It is missing, cannot be read, or holds something else.
    """
    if not required and not file.is_file():
        return {}
    text = read_text(file, LARGEST_SETTINGS)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return content
