"""A tokenizer out of a GGUF file's metadata, equal to the one the model was trained with."""

from __future__ import annotations

from collections.abc import Mapping

from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from rbee_export.checkpoint.checkpoint import TokenizerSource
from rbee_export.checkpoint.gguf_splitting import SPLITTINGS, Splitting
from rbee_export.checkpoint.gguf_vocabulary import (
    PREFIX,
    Vocabulary,
    read_flag,
    read_merges,
    read_string,
)
from rbee_export.errors import CheckpointError, UnsupportedModel

_SPACE = "▁"

# These end a document wherever they stand; the file need not say so.
_DOCUMENT_ENDS = frozenset({"<|endoftext|>", "<|end_of_text|>"})
# These end a turn in some models and separate parts of one in others.
_TURN_ENDS = frozenset({"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>"})


def read_tokenizer(fields: Mapping[str, object]) -> TokenizerSource:
    """Build the tokenizer that a GGUF file describes.

    Special tokens written in a text are recognised. Encoding with special tokens adds beginning and
    end of text exactly where the model's own tokenizer does; what the file leaves unsaid is as in
    llama.cpp.

    Args:
        fields: Metadata of the file, plain values by key, as ``read_fields`` returns them.

    Raises:
        CheckpointError: A key is missing, of the wrong type, or contradicts another.
        UnsupportedModel: The kind of tokenizer, or its way of splitting words, is not known here.
    """
    kind = read_string(fields, "model")
    if kind is None:
        raise CheckpointError(f"{PREFIX}model is missing: the GGUF file holds no tokenizer")
    if kind not in ("gpt2", "llama"):
        raise UnsupportedModel(f"{PREFIX}model {kind!r} is not supported; known are gpt2, llama")
    vocabulary = Vocabulary.read(fields)
    bos, eos = vocabulary.read_id(fields, "bos"), vocabulary.read_id(fields, "eos")
    if kind == "gpt2":
        splitting = _splitting(fields)
        tokenizer = _byte_level(fields, vocabulary, splitting)
        adds_bos = splitting.adds_bos
    else:
        tokenizer = _sentencepiece(fields, vocabulary)
        adds_bos = True
        bos = _control_token(vocabulary, 1) if bos is None else bos
        eos = _control_token(vocabulary, 2) if eos is None else eos

    template = fields.get("tokenizer.chat_template")
    chat_template = template if isinstance(template, str) and template else None
    ends = _end_ids(fields, vocabulary, eos, chat_template or "")
    _add_tokens(tokenizer, vocabulary, {bos, *ends})
    _add_edges(
        tokenizer,
        vocabulary,
        before=bos if _adds(fields, "bos", bos, default=adds_bos) else None,
        after=eos if _adds(fields, "eos", eos, default=False) else None,
    )
    return TokenizerSource(tokenizer.to_str(), bos, ends, chat_template)


def _splitting(fields: Mapping[str, object]) -> Splitting:
    name = read_string(fields, "pre") or "default"
    splitting = SPLITTINGS.get(name)
    if splitting is None:
        raise UnsupportedModel(
            f"{PREFIX}pre {name!r} is not supported; known are {', '.join(SPLITTINGS)}"
        )
    return splitting


def _byte_level(
    fields: Mapping[str, object], vocabulary: Vocabulary, splitting: Splitting
) -> Tokenizer:
    """Byte pair encoding over words of bytes, each byte written as a letter (GPT-2)."""
    merges = read_merges(fields)
    if merges is None:
        raise CheckpointError(f"{PREFIX}merges is missing: a gpt2 tokenizer needs it")
    model = _bpe(vocabulary, merges, ignore_merges=splitting.ignore_merges)
    tokenizer = Tokenizer(model)
    if splitting.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitting.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(fields: Mapping[str, object], vocabulary: Vocabulary) -> Tokenizer:
    """Byte pair encoding over characters, or bytes where one is no token (SentencePiece)."""
    merges = read_merges(fields)
    if merges is None:
        merges = vocabulary.merges_by_score(fields)
    unknown = vocabulary.read_id(fields, "unknown") or 0
    model = _bpe(
        vocabulary,
        merges,
        unk_token=vocabulary.tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    # A normalizer, not a pre-tokenizer: text that follows a special token gets a leading space too,
    # as in the tokenizers these models came with.
    leading_space = read_flag(fields, "add_space_prefix") is not False
    prepend = [normalizers.Prepend(_SPACE)] if leading_space else []
    strip = [decoders.Strip(" ", 1, 0)] if leading_space else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _bpe(
    vocabulary: Vocabulary,
    merges: list[tuple[str, str]],
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
        raise CheckpointError(f"{PREFIX}merges do not fit {PREFIX}tokens: {error}") from error


def _control_token(vocabulary: Vocabulary, index: int) -> int | None:
    is_control = index < len(vocabulary.types) and vocabulary.types[index] is TokenType.CONTROL
    return index if is_control else None


def _end_ids(
    fields: Mapping[str, object], vocabulary: Vocabulary, eos: int | None, chat_template: str
) -> tuple[int, ...]:
    """Return the ids that end a completion: those named so, then those evidently used so."""
    ends = [eos, vocabulary.read_id(fields, "eot"), vocabulary.read_id(fields, "eom")]
    named = [value for key, value in fields.items() if key.endswith("_token_id")]
    for index, (token, type_) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if type_ not in (TokenType.CONTROL, TokenType.USER_DEFINED):
            continue
        used_so = token in _TURN_ENDS and (index in named or token in chat_template)
        if used_so or token in _DOCUMENT_ENDS:
            ends.append(index)
    return tuple(dict.fromkeys(index for index in ends if index is not None))


def _add_tokens(tokenizer: Tokenizer, vocabulary: Vocabulary, special: set[int | None]) -> None:
    """Have the tokens that are no ordinary text found in it as they are written."""
    added = []
    for index, (token, type_) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        is_special = index in special or type_ in (TokenType.CONTROL, TokenType.UNKNOWN)
        if is_special or type_ is TokenType.USER_DEFINED:
            added.append(AddedToken(token, normalized=False, special=is_special))
    tokenizer.add_tokens(added)


def _adds(fields: Mapping[str, object], name: str, index: int | None, *, default: bool) -> bool:
    """Say whether encoding adds the token of this name to a text."""
    adds = read_flag(fields, f"add_{name}_token")
    if adds and index is None:
        raise CheckpointError(
            f"{PREFIX}add_{name}_token is set, but {PREFIX}{name}_token_id is missing"
        )
    return index is not None and (default if adds is None else adds)


def _add_edges(
    tokenizer: Tokenizer, vocabulary: Vocabulary, *, before: int | None, after: int | None
) -> None:
    edges = {name: i for name, i in (("bos", before), ("eos", after)) if i is not None}
    if not edges:
        return
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[name for name in ("bos", "$A", "eos") if name == "$A" or name in edges],
        special_tokens=[
            {"id": name, "ids": [index], "tokens": [vocabulary.tokens[index]]}
            for name, index in edges.items()
        ],
    )
