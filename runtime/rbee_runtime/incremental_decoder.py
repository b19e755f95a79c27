"""Decoding a completion while it grows."""

from __future__ import annotations

from collections.abc import Collection

from rbee_runtime.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
"""What decoding puts in the place of bytes that are no whole character (yet)."""


class IncrementalDecoder:
    """Turns a growing sequence of ids into text, a piece at a time, never splitting a character.

    The pieces, with that of :meth:`flush`, concatenate to ``tokenizer.decode`` of all ids, and the
    names of those that are shown.

    Args:
        tokenizer: The tokenizer.
        shown: Special tokens that have their names in the text all the same.
    """

    def __init__(self, tokenizer: Tokenizer, shown: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._shown = shown
        # Ids are decoded after a few that came before them, since many decoders treat a text's
        # start differently (they strip a leading space there).
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """Add one id and return the text that became certain, which may be empty."""
        if self._tokenizer.is_special(token_id):
            return self.flush() + self._tokenizer.name(token_id) if token_id in self._shown else ""
        self._pending.append(token_id)
        if self._tokenizer.is_byte(token_id):
            return ""  # a bad byte after it would turn the whole run of bytes into U+FFFD
        text = self._tokenizer.decode(self._context + self._pending)
        if text.endswith(_REPLACEMENT):
            return ""
        return self._emit(text)

    def flush(self) -> str:
        """Return what was held back: bytes that never became a whole character, as U+FFFD."""
        if not self._pending:
            return ""
        return self._emit(self._tokenizer.decode(self._context + self._pending))

    def _emit(self, text: str) -> str:
        piece = text[len(self._context_text) :]
        if piece:
            self._context = self._pending
            self._context_text = (
                self._tokenizer.decode_alone(self._context[0])
                if len(self._context) == 1
                else self._tokenizer.decode(self._context)
            )
        else:
            # What has no text, as a space that was stripped, is no context by itself.
            self._context = self._context + self._pending
        self._pending = []
        return piece
