"""A tokenizer out of a GGUF file's metadata, equal to the one the model was trained with."""

from __future__ import annotations

from collections.abc import Mapping

from gguf import TokenType
from tokenizers import Tokenizer

from rbee_export.checkpoint.checkpoint import TokenizerSource
from rbee_export.checkpoint.gguf_splitting import SPLITTINGS, Splitting
from rbee_export.checkpoint.gguf_vocabulary import (
    PREFIX,
    read_bytes,
    read_flag,
    read_id,
    read_merges,
    read_string,
    read_vocabulary,
)
from rbee_export.checkpoint.tokenizer_building import (
    Spacing,
    add_edges,
    add_tokens,
    byte_level,
    sentencepiece_bpe,
    unigram,
)
from rbee_export.checkpoint.tokenizer_ends import end_ids
from rbee_export.checkpoint.tokenizer_template import check_template
from rbee_export.checkpoint.tokenizer_vocabulary import Vocabulary
from rbee_export.errors import CheckpointError, UnsupportedModel, shown

_KINDS = ("gpt2", "llama", "t5")


def read_tokenizer(fields: Mapping[str, object]) -> TokenizerSource:
    """Build the tokenizer that a GGUF file describes.

    Special tokens written in a text are recognised. Encoding with special tokens adds beginning and
    end of text exactly where the model's own tokenizer does; what the file leaves unsaid is as in
    llama.cpp.

    Args:
        fields: Metadata of the file, plain values by key, as ``read_header`` returns them.

    Raises:
        CheckpointError: A key is missing, of the wrong type, or contradicts another; or the chat
            template is no jinja.
        UnsupportedModel: The kind of tokenizer, or its way of splitting words, is not known here.
    """
    kind = read_string(fields, "model")
    if kind is None:
        raise CheckpointError(f"{PREFIX}model is missing: the GGUF file holds no tokenizer")
    if kind not in _KINDS:
        raise UnsupportedModel(
            f"{PREFIX}model {kind!r} is not supported; known are {', '.join(_KINDS)}"
        )
    vocabulary = read_vocabulary(fields, spaces_marked=kind != "gpt2")
    bos, eos = (read_id(fields, name, vocabulary) for name in ("bos", "eos"))
    adds_bos, adds_eos = False, False
    if kind == "gpt2":
        splitting = _splitting(fields)
        tokenizer = _byte_level(fields, vocabulary, splitting)
        adds_bos = splitting.adds_bos
    elif kind == "llama":
        merges = read_merges(fields)
        if merges is None:
            merges = vocabulary.merges_by_score()
        tokenizer = sentencepiece_bpe(vocabulary, merges, _llama_spacing(fields, vocabulary))
        adds_bos = True
        bos = _control_token(vocabulary, 1) if bos is None else bos
        eos = _control_token(vocabulary, 2) if eos is None else eos
    else:
        tokenizer = unigram(vocabulary, _unigram_spacing(fields))
        adds_eos = True
        eos = _control_token(vocabulary, 1) if eos is None else eos

    template = fields.get("tokenizer.chat_template")
    chat_template = template if isinstance(template, str) and template else None
    if chat_template is not None:
        check_template(chat_template, "tokenizer.chat_template")
    ends = end_ids(
        named=(eos, *(read_id(fields, name, vocabulary) for name in ("eot", "eom"))),
        find=vocabulary.ids.get,
        mentioned={
            value
            for key, value in fields.items()
            if key.endswith("_token_id") and isinstance(value, int)
        },
        chat_template=chat_template or "",
    )
    special = {index for index in (bos, *ends) if index is not None}
    add_tokens(tokenizer, vocabulary, special, _strip_after(fields, kind, vocabulary, special))
    before = bos if _adds(fields, "bos", bos, default=adds_bos) else None
    after = eos if _adds(fields, "eos", eos, default=adds_eos) else None
    if before is not None or after is not None:
        add_edges(tokenizer, before=before, after=after)
    return TokenizerSource(tokenizer.to_str(), bos, ends, chat_template)


def _splitting(fields: Mapping[str, object]) -> Splitting:
    name = read_string(fields, "pre") or "default"
    splitting = SPLITTINGS.get(name)
    if splitting is None:
        raise UnsupportedModel(
            f"{PREFIX}pre {shown(name)} is not supported; known are {', '.join(SPLITTINGS)}"
        )
    return splitting


def _byte_level(
    fields: Mapping[str, object], vocabulary: Vocabulary, splitting: Splitting
) -> Tokenizer:
    merges = read_merges(fields)
    if merges is None:
        raise CheckpointError(f"{PREFIX}merges is missing: a gpt2 tokenizer needs it")
    return byte_level(vocabulary, merges, splitting)


def _llama_spacing(fields: Mapping[str, object], vocabulary: Vocabulary) -> Spacing:
    if read_flag(fields, "add_space_prefix") is False:
        return Spacing("never")
    # The file does not say which of the two manners its model has. Mistral's models are the ones
    # with the newer, from the vocabulary on that has the marks of an instruction as tokens.
    mark = vocabulary.ids.get("[INST]")
    newer = mark is not None and vocabulary.types[mark] is TokenType.CONTROL
    return Spacing("first" if newer else "every")


def _unigram_spacing(fields: Mapping[str, object]) -> Spacing:
    return Spacing(
        "every" if read_flag(fields, "add_space_prefix") else "never",
        collapse=bool(read_flag(fields, "remove_extra_whitespaces")),
        charsmap=read_bytes(fields, "precompiled_charsmap"),
    )


def _control_token(vocabulary: Vocabulary, index: int) -> int | None:
    is_control = index < len(vocabulary.types) and vocabulary.types[index] is TokenType.CONTROL
    return index if is_control else None


def _strip_after(
    fields: Mapping[str, object], kind: str, vocabulary: Vocabulary, special: set[int]
) -> set[int]:
    """Return the tokens that swallow the spaces after them: in Phi-3, those that mark turns.

    GGUF has no place for this property; llama.cpp tells such a model by its name.
    """
    if kind != "llama" or fields.get("general.architecture") != "phi3":
        return set()
    kept = {"<unk>", "<s>", "<|endoftext|>"}
    return {
        index
        for index, (token, type_) in enumerate(
            zip(vocabulary.tokens, vocabulary.types, strict=True)
        )
        if (index in special or type_ in (TokenType.CONTROL, TokenType.USER_DEFINED))
        and token not in kept
    }


def _adds(fields: Mapping[str, object], name: str, index: int | None, *, default: bool) -> bool:
    """Say whether encoding adds the token of this name to a text."""
    adds = read_flag(fields, f"add_{name}_token")
    if adds and index is None:
        raise CheckpointError(
            f"{PREFIX}add_{name}_token is set, but {PREFIX}{name}_token_id is missing"
        )
    return index is not None and (default if adds is None else adds)
