"""From a vocabulary to a ``tokenizers.Tokenizer``, for every kind of tokenizer known here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from gguf import TokenType
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from rbee_export.checkpoint.gguf_splitting import Splitting
from rbee_export.checkpoint.tokenizer_charsmap import check_charsmap
from rbee_export.checkpoint.tokenizer_vocabulary import SPACE, Merges, Vocabulary
from rbee_export.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Spacing:
    """What SentencePiece does to a text before it looks for pieces.

    Attributes:
        prefix: Where a space is put before the text: nowhere; at its start only; or also after
            every special token in it, as the Llama tokenizers of transformers did at first.
        collapse: Several spaces become one, and those at either end are taken away.
        charsmap: Compiled normalisation rules, in SentencePiece's format; empty for none.
    """

    prefix: Literal["never", "first", "every"]
    collapse: bool = False
    charsmap: bytes = b""


def byte_level(vocabulary: Vocabulary, merges: Merges, splitting: Splitting) -> Tokenizer:
    """Return byte pair encoding over words of bytes, each byte written as a letter (GPT-2).

    Raises:
        CheckpointError: The merges do not fit the vocabulary.
    """
    tokenizer = Tokenizer(_bpe(vocabulary, merges, ignore_merges=splitting.ignore_merges))
    if splitting.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitting.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece_bpe(vocabulary: Vocabulary, merges: Merges, spacing: Spacing) -> Tokenizer:
    """Return byte pair encoding over characters, or bytes where one is no token (SentencePiece).

    Raises:
        CheckpointError: The merges do not fit the vocabulary.
    """
    model = _bpe(
        vocabulary,
        merges,
        unk_token=vocabulary.tokens[vocabulary.unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    return _spaced(Tokenizer(model), spacing)


def unigram(vocabulary: Vocabulary, spacing: Spacing) -> Tokenizer:
    """Return the pieces whose scores add up to the most, bytes where no piece fits (SentencePiece).

    Raises:
        CheckpointError: There are no scores, or the compiled normalisation rules are damaged.
    """
    if vocabulary.scores is None:
        raise CheckpointError("the vocabulary has no scores, which a unigram tokenizer needs")
    has_bytes = TokenType.BYTE in vocabulary.types
    pieces = list(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    try:
        model = models.Unigram(pieces, unk_id=vocabulary.unknown, byte_fallback=has_bytes)
    except Exception as error:  # The library raises nothing narrower.
        raise CheckpointError(f"no unigram tokenizer can be made of this: {error}") from error
    tokenizer = _spaced(Tokenizer(model), spacing)
    if has_bytes:
        # The library would take the name of a byte for the byte; this tears such names apart.
        names = pre_tokenizers.Split(Regex("<(?=0x[0-9A-F]{2}>)"), "isolated")
        rest = [] if tokenizer.pre_tokenizer is None else [tokenizer.pre_tokenizer]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*rest, names])
    return tokenizer


def _bpe(
    vocabulary: Vocabulary,
    merges: Merges,
    *,
    unk_token: str | None = None,
    fuse_unk: bool = False,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> models.BPE:
    try:
        return models.BPE(
            vocab=vocabulary.ids,
            merges=merges,
            unk_token=unk_token,
            fuse_unk=fuse_unk,
            byte_fallback=byte_fallback,
            ignore_merges=ignore_merges,
        )
    except Exception as error:  # The library raises nothing narrower.
        raise CheckpointError(f"the merges do not fit the tokens: {error}") from error


def _spaced(tokenizer: Tokenizer, spacing: Spacing) -> Tokenizer:
    steps: list[normalizers.Normalizer] = []
    if spacing.charsmap:
        check_charsmap(spacing.charsmap)
        steps.append(normalizers.Precompiled(spacing.charsmap))
    if spacing.collapse:
        steps += [
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Replace(Regex(r"\A | \z"), ""),
        ]
    if spacing.prefix == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "first", split=False)
    elif spacing.prefix == "every":
        steps.append(normalizers.Prepend(SPACE))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    strip = [] if spacing.prefix == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def add_tokens(
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    special: Collection[int],
    strips_after: Collection[int] = (),
) -> None:
    """Have the tokens that are no ordinary text found in it as they are written.

    Args:
        tokenizer: Built from the vocabulary.
        vocabulary: All tokens.
        special: Ids that have no text, besides those of control tokens.
        strips_after: Ids of the tokens that swallow the spaces and line ends after them.
    """
    added = []
    for index, (token, type_) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        is_special = index in special or type_ in (TokenType.CONTROL, TokenType.UNKNOWN)
        if is_special or type_ is TokenType.USER_DEFINED:
            strips = index in strips_after
            added.append(AddedToken(token, normalized=False, special=is_special, rstrip=strips))
    tokenizer.add_tokens(added)


def add_edges(tokenizer: Tokenizer, *, before: int | None, after: int | None) -> None:
    """Have encoding put these tokens before and after a text; with neither, nothing."""
    edges = {name: i for name, i in (("bos", before), ("eos", after)) if i is not None}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[name for name in ("bos", "$A", "eos") if name == "$A" or name in edges],
        special_tokens=[
            {"id": name, "ids": [index], "tokens": [tokenizer.id_to_token(index)]}
            for name, index in edges.items()
        ],
    )
