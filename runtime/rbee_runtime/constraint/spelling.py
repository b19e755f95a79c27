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
    kinds = {one["type"]: one for one in _decoders(tokenizer)}
    added = tokenizer.get_added_tokens_decoder()
    if "ByteLevel" in kinds:
        _spell_letters(vocabulary, spelling)
        for number, token in added.items():
            spelling[number] = token.content.encode()
    elif "ByteFallback" in kinds or "Metaspace" in kinds:
        _spell_pieces(vocabulary, spelling, _space(kinds))
    else:
        raise Unspelled
    for number, spelled in enumerate(spelling):
        # No text has the byte 0xFF.
        if (number in added and added[number].special) or b"\xff" in (spelled or b""):
            spelling[number] = None
    return spelling


def _decoders(tokenizer: tokenizers.Tokenizer) -> Iterator[Mapping[str, Any]]:
    if tokenizer.decoder is None:
        return
    waiting = [json.loads(tokenizer.decoder.__getstate__())]
    while waiting:
        one = waiting.pop()
        waiting += one.get("decoders", ())
        yield one


def _spell_letters(vocabulary: Mapping[str, int], spelling: Spelling) -> None:
    """Spell tokens that have a letter for every byte, as GPT-2's."""
    bytes_of = _letters()
    for name, number in vocabulary.items():
        try:
            spelling[number] = name.translate(bytes_of).encode("latin-1")
        except UnicodeEncodeError:
            continue  # no token of this kind: nothing decodes to it


def _letters() -> dict[int, int]:
    """Return the byte that each letter stands for: printable ones for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(plain))
    # What stands for a byte, but is none, must not pass for one.
    hidden = dict.fromkeys(others, 0x10FFFF)
    return hidden | {byte: byte for byte in plain} | {0x100 + n: b for n, b in enumerate(others)}


def _spell_pieces(vocabulary: Mapping[str, int], spelling: Spelling, space: str) -> None:
    """Spell tokens that are text, but for single bytes and spaces, as Llama 2's."""
    single = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(0x100)}
    for name, number in vocabulary.items():
        spelling[number] = single.get(name) or name.replace(space, " ").encode()


def _space(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what stands for a space."""
    return str(kinds.get("Metaspace", {}).get("replacement", "▁"))
