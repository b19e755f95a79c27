"""The bytes that each token of a vocabulary stands for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers

Spelling = list[bytes | None]
"""By id; ``None`` for a token that no text has: a special one, or a gap in the vocabulary."""


class Unspelled(Exception):
    """The tokenizer is of a kind whose tokens are not bytes of the text."""


def spell(tokenizer: tokenizers.Tokenizer) -> Spelling:
    """Return what each token adds to a text, in bytes.

    Raises:
        Unspelled: The tokenizer's decoder is neither byte-level nor that of SentencePiece.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    spelling: Spelling = [None] * (max(vocabulary.values(), default=-1) + 1)
    speller = Speller(tokenizer)
    for name, number in vocabulary.items():
        spelled = speller.spell(name, number)
        # No text has the byte 0xFF.
        spelling[number] = None if spelled is None or b"\xff" in spelled else spelled
    return spelling


class Speller:
    """Knows the bytes that single tokens of a tokenizer add to a text.

    Raises:
        Unspelled: The tokenizer's decoder is neither byte-level nor that of SentencePiece.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        kinds = {one["type"]: one for one in _decoders(tokenizer)}
        self._bytes_of = _letters() if "ByteLevel" in kinds else None
        if self._bytes_of is None and not kinds.keys() & {"ByteFallback", "Metaspace"}:
            raise Unspelled
        self._space = _space(kinds)
        self._single = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(0x100)}
        self._added: Mapping[int, Any] = tokenizer.get_added_tokens_decoder()

    def spell(self, name: str, number: int) -> bytes | None:
        """Return what a token adds, given its name and its id; ``None`` if no text has it."""
        added = self._added.get(number)
        if added is not None and added.special:
            return None
        if self._bytes_of is None:
            # Text, but for single bytes and spaces, as Llama 2's.
            return self._single.get(name) or name.replace(self._space, " ").encode()
        if added is not None:
            content: str = added.content
            return content.encode()
        # A letter for every byte, as GPT-2's.
        try:
            return name.translate(self._bytes_of).encode("latin-1")
        except UnicodeEncodeError:
            return None  # no token of this kind: nothing decodes to it


def _decoders(tokenizer: tokenizers.Tokenizer) -> Iterator[Mapping[str, Any]]:
    if tokenizer.decoder is None:
        return
    waiting = [json.loads(tokenizer.decoder.__getstate__())]
    while waiting:
        one = waiting.pop()
        waiting += one.get("decoders", ())
        yield one


def _letters() -> dict[int, int]:
    """Return the byte that each letter stands for: printable ones for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(plain))
    # What stands for a byte, but is none, must not pass for one.
    hidden = dict.fromkeys(others, 0x10FFFF)
    return hidden | {byte: byte for byte in plain} | {0x100 + n: b for n, b in enumerate(others)}


def _space(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what stands for a space."""
    return str(kinds.get("Metaspace", {}).get("replacement", "▁"))
