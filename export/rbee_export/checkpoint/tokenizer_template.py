"""Chat templates, checked before they go into an artifact."""

from __future__ import annotations

from rbee_export.errors import CheckpointError
from rbee_runtime.chat_template import BadTemplate, ChatTemplate


def check_template(source: str, where: str) -> None:
    """Check that a chat template compiles; it is not run.

    Args:
        source: Jinja.
        where: The file or metadata key it came from, for the message.

    Raises:
        CheckpointError: It does not, or is longer than any real one.
    """
    try:
        ChatTemplate(source)
    except BadTemplate as error:
        raise CheckpointError(f"{where} is not a chat template: {error}") from error
