"""The token in force, which its file may replace while the worker runs."""

from __future__ import annotations

from pathlib import Path

from rbee_service.auth import ApiToken
from rbee_service.values import read_token


class TokenKeeper:
    """Knows the token that guards the routes now, and is shown to the hive.

    Args:
        token: The first one; ``None`` leaves everything open.
        file: What it was read from; ``None`` if it cannot change.
    """

    def __init__(self, token: ApiToken | None, file: Path | None = None) -> None:
        self._token = token
        self.file = file

    @property
    def token(self) -> ApiToken | None:
        """The token in force."""
        return self._token

    def reread(self) -> None:
        """Take what the file holds now. Blocks.

        Raises:
            ValueError: It holds no token, or cannot be read; the old one stays in force.
        """
        if self.file is not None:
            self._token = read_token(str(self.file))
