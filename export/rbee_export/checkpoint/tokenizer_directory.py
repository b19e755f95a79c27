"""The tokenizer of a checkpoint directory, as model hubs lay it out.

Besides the tokenizer itself, ``tokenizer.json`` or SentencePiece's ``tokenizer.model``, several
files have a say in it: which tokens are special, which are added to a text, which end one. What
counts here is what transformers makes of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Tokenizer

from rbee_export.checkpoint.checkpoint import TokenizerSource
from rbee_export.checkpoint.json_file import read_json, read_text
from rbee_export.checkpoint.own_file import LARGEST_SETTINGS, LARGEST_TOKENIZER
from rbee_export.checkpoint.tokenizer_building import (
    Spacing,
    add_edges,
    add_tokens,
    sentencepiece_bpe,
    unigram,
)
from rbee_export.checkpoint.tokenizer_ends import end_ids
from rbee_export.checkpoint.tokenizer_model_file import SentencePieceModel, read_model_file
from rbee_export.checkpoint.tokenizer_options import TokenizerOptions
from rbee_export.checkpoint.tokenizer_template import check_template
from rbee_export.checkpoint.tokenizer_vocabulary import Vocabulary
from rbee_export.errors import CheckpointError
from rbee_runtime.tokenizer import is_panic

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json"),
)
"""Names of the files that :func:`read_directory_tokenizer` reads, where they are present."""

# Classes of transformers that decide by two options what they add to a text.
_CLASSES_WITH_EDGES = {
    f"{name}Tokenizer{fast}" for name in ("Llama", "CodeLlama", "Gemma") for fast in ("", "Fast")
}
_ADDED_TOKENS = re.compile(r'"added_tokens"\s*:\s*')
_PROBE = "Probe 1 \n\t é 漢 🙂"


def read_directory_tokenizer(path: Path, settings: Mapping[str, Any]) -> TokenizerSource:
    """Read the tokenizer of a checkpoint directory.

    Args:
        path: The directory.
        settings: Content of its ``config.json``; ``vocab_size``, and the ids of special tokens,
            may be in its ``text_config``.

    Raises:
        CheckpointError: There is no tokenizer; a file is no such file; an id is not in the
            vocabulary; or the chat template is no jinja.
        UnsupportedModel: The tokenizer is of a kind not known here.
    """
    options = TokenizerOptions.read(path, settings)
    fast, model = path / "tokenizer.json", path / "tokenizer.model"
    if fast.is_file():
        tokenizer, bos, eos = _read_fast(fast, options)
    elif model.is_file():
        tokenizer, bos, eos = _read_sentencepiece(model, options)
    else:
        raise CheckpointError(
            f"{fast}: missing; save the model's fast tokenizer, or its {model.name}, there"
        )
    template = _chat_template(path, options)
    ends = end_ids(
        named=(*options.ids(tokenizer, "eos_token_id"), eos),
        find=tokenizer.token_to_id,
        mentioned=(),
        chat_template=template or "",
    )
    return TokenizerSource(tokenizer.to_str(), bos, ends, template)


def _read_fast(file: Path, options: TokenizerOptions) -> tuple[Tokenizer, int | None, int | None]:
    """Return a serialised tokenizer, with the tokens for a text's beginning and end."""
    text = read_text(file, LARGEST_TOKENIZER)
    if options.vocab_size is None:
        tokenizer = _parse(file, text)
    else:
        tokenizer = _parse(file, _without_missing_rows(text, options.vocab_size))
        _check_rows(file, tokenizer, options.vocab_size)
    _name_tokens(tokenizer, options)
    bos, eos = (_role(tokenizer, options, role, None) for role in ("bos", "eos"))
    if options.options.get("tokenizer_class") in _CLASSES_WITH_EDGES:
        _set_edges(tokenizer, options, bos, eos, adds_bos=True, adds_eos=False)
    return tokenizer, bos, eos


def _parse(file: Path, text: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(text)
        # These may come with it, to make all texts equally long. A server wants them as they are.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.decode(tokenizer.encode(_PROBE).ids)
    except BaseException as error:  # the library raises nothing narrower, and may panic
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        message = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{file}: not a tokenizer ({message}); save it again") from error
    return tokenizer


def _without_missing_rows(text: str, vocab_size: int) -> str:
    """Return a serialised tokenizer without added tokens that the model has no row for.

    There are such models: Gemma 3 without its vision part still has the token for an image.
    """
    key = _ADDED_TOKENS.search(text)
    if key is None:
        return text
    try:
        added, end = json.JSONDecoder().raw_decode(text, key.end())
        kept = [token for token in added if token["id"] < vocab_size]
    except (ValueError, LookupError, TypeError, RecursionError):
        return text  # which is for the library to complain about
    return text[: key.end()] + json.dumps(kept) + text[end:] if len(kept) < len(added) else text


def _check_rows(file: Path, tokenizer: Tokenizer, vocab_size: int) -> None:
    last = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if last >= vocab_size:
        raise CheckpointError(
            f"{file}: has a token with id {last}, but the model's vocab_size is {vocab_size}"
        )


def _read_sentencepiece(
    file: Path, options: TokenizerOptions
) -> tuple[Tokenizer, int | None, int | None]:
    """Return a SentencePiece model, with the tokens for a text's beginning and end."""
    model = read_model_file(file)
    try:
        vocabulary = _extended(model.vocabulary, options)
        spacing = _spacing(model, options)
        if model.is_unigram:
            tokenizer = unigram(vocabulary, spacing)
        else:
            tokenizer = sentencepiece_bpe(vocabulary, vocabulary.merges_by_score(), spacing)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    add_tokens(tokenizer, vocabulary, ())
    _name_tokens(tokenizer, options)
    bos = _role(tokenizer, options, "bos", model.bos)
    eos = _role(tokenizer, options, "eos", model.eos)
    adds_bos, adds_eos = not model.is_unigram, model.is_unigram
    _set_edges(tokenizer, options, bos, eos, adds_bos=adds_bos, adds_eos=adds_eos)
    return tokenizer, bos, eos


def _extended(vocabulary: Vocabulary, options: TokenizerOptions) -> Vocabulary:
    """Return the vocabulary with the tokens that were added to it later."""
    tokens, types = list(vocabulary.tokens), list(vocabulary.types)
    size = options.vocab_size
    if size is not None and len(tokens) > size:
        raise CheckpointError(f"has {len(tokens)} tokens, but the model's vocab_size is {size}")
    most = len(tokens) + len(options.added) if size is None else size
    for index, token in options.added.items():
        if index >= most:
            continue  # the model has no row for it
        for gap in range(len(tokens), index + 1):
            tokens.append(f"[PAD{gap}]")
            types.append(TokenType.UNUSED)
        tokens[index] = token.content
        types[index] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    scores = (*(vocabulary.scores or ()), *[0.0] * (len(tokens) - len(vocabulary.tokens)))
    return Vocabulary(tuple(tokens), tuple(types), scores)


def _spacing(model: SentencePieceModel, options: TokenizerOptions) -> Spacing:
    adds_space = model.adds_space and options.option("add_prefix_space") is not False
    newer = options.option("legacy") is False
    return Spacing(
        ("first" if newer else "every") if adds_space else "never",
        collapse=model.removes_spaces,
        charsmap=model.charsmap,
    )


def _name_tokens(tokenizer: Tokenizer, options: TokenizerOptions) -> None:
    """Have the tokens that the small files name found as they are written, as they say."""
    special = options.special()
    size = tokenizer.get_vocab_size()
    # All at once: each time, the library makes its search for all added tokens anew.
    found: dict[str, AddedToken] = {}
    for index, token in options.added.items():
        known = tokenizer.token_to_id(token.content)
        has_row = options.vocab_size is None or index < options.vocab_size
        is_next = known is None and index == size and has_row
        if known == index or is_next:
            token.special = token.special or token.content in special
            found[token.content] = token
            size += is_next
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for name in sorted(special - added - found.keys()):
        if tokenizer.token_to_id(name) is not None:
            found[name] = AddedToken(name, normalized=False, special=True)
    tokenizer.add_tokens(list(found.values()))


def _role(
    tokenizer: Tokenizer, options: TokenizerOptions, role: str, default: int | None
) -> int | None:
    """Return the token that has a role: by its files, by the model's, or by default."""
    if f"{role}_token" in options.options:
        name = options.role(f"{role}_token")
        index: int | None = None if name is None else tokenizer.token_to_id(name)
        return index
    return next(options.ids(tokenizer, f"{role}_token_id"), default)


def _set_edges(
    tokenizer: Tokenizer,
    options: TokenizerOptions,
    bos: int | None,
    eos: int | None,
    *,
    adds_bos: bool,
    adds_eos: bool,
) -> None:
    """Have encoding add the tokens that the options say, which by default are these."""
    says_bos, says_eos = options.option("add_bos_token"), options.option("add_eos_token")
    add_edges(
        tokenizer,
        before=bos if (adds_bos if says_bos is None else says_bos) else None,
        after=eos if (adds_eos if says_eos is None else says_eos) else None,
    )


def _chat_template(path: Path, options: TokenizerOptions) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        template: object = read_text(file, LARGEST_SETTINGS)
    else:
        file = path / "chat_template.json"
        template = read_json(file, required=False).get("chat_template")
        if template is None:
            file = path / "tokenizer_config.json"
            template = options.options.get("chat_template")
    if isinstance(template, list):  # several named ones
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if not isinstance(template, str) or not template:
        return None
    check_template(template, f"{file}: its chat template")
    return template
