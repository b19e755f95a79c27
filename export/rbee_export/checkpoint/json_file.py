"""A JSON object in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rbee_export.errors import CheckpointError


def read_json(file: Path, *, required: bool = True) -> dict[str, Any]:
    """Return the object a file holds; an empty one for a file that is missing and not required.

    Raises:
        CheckpointError: It is missing, cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise CheckpointError(f"{file}: missing; is this a model directory?") from None
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return content
