"""SentencePiece's compiled normalisation rules, checked before a library trusts them."""

from __future__ import annotations

import numpy as np

from rbee_export.errors import CheckpointError

_HEADER = 4
_UNIT = 4


def check_charsmap(charsmap: bytes) -> None:
    """Check that no text can lead these rules out of their own memory.

    They are a double-array trie (darts-clone) from texts to places in a string of replacements,
    each ended by a zero byte: its size in bytes, its units of 32 bits, the string. The library that
    follows them checks nothing.

    Raises:
        CheckpointError: The rules are cut short, or point outside.
    """
    size = int.from_bytes(charsmap[:_HEADER], "little")
    if len(charsmap) < _HEADER or size % _UNIT or not 0 < size <= len(charsmap) - _HEADER:
        raise CheckpointError("the tokenizer's normalisation rules are cut short")
    units = np.frombuffer(charsmap, "<u4", size // _UNIT, _HEADER)
    inner = np.flatnonzero(units >> 31 == 0)  # the others are values, which lead nowhere
    offsets = (units[inner] >> 10) << ((units[inner] & (1 << 9)) >> 6)
    targets = inner ^ offsets.astype(np.int64)
    if ((targets | 0xFF) >= len(units)).any():
        raise CheckpointError("the tokenizer's normalisation rules point outside their trie")
    has_value = (units[inner] >> 8 & 1).astype(bool)
    values = units[targets[has_value]] & 0x7FFFFFFF
    replacements = charsmap[_HEADER + size :]
    try:
        replacements.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError("the tokenizer's normalisation rules are not UTF-8") from error
    if (values >= len(replacements)).any():
        raise CheckpointError("the tokenizer's normalisation rules point outside their text")
    # Where a character goes on, its byte is 10xxxxxx.
    if ((np.frombuffer(replacements, np.uint8)[values] & 0xC0) == 0x80).any():
        raise CheckpointError("the tokenizer's normalisation rules cut a character in two")
