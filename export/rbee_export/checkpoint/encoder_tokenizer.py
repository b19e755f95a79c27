"""The tokenizer of an encoder's directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from rbee_export.checkpoint.json_file import read_json, read_text
from rbee_export.checkpoint.own_file import LARGEST_TOKENIZER
from rbee_export.checkpoint.sentence_modules import SentenceModules
from rbee_export.checkpoint.tokenizer_directory import read_directory_tokenizer
from rbee_export.errors import CheckpointError, shown

VOCABULARY = "vocab.txt"
_UNKNOWN, _FIRST, _LAST = "[UNK]", "[CLS]", "[SEP]"


def read_encoder_tokenizer(modules: SentenceModules, settings: Mapping[str, Any]) -> str:
    """Return an encoder's tokenizer, serialised: as transformers and sentence-transformers have it.

    Args:
        modules: What is done to texts besides.
        settings: Content of ``config.json``.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    path = modules.transformer
    if reads_vocabulary(path):
        tokenizer = _word_pieces(path / VOCABULARY, settings)
    else:
        read = read_directory_tokenizer(path, settings)
        tokenizer = Tokenizer.from_str(read.tokenizer_json)
    steps: list[normalizers.Normalizer] = []
    if modules.strips:
        steps.append(normalizers.Strip())
    if modules.lowercase:
        steps.append(normalizers.Lowercase())
    own = _normalizer(tokenizer, read_json(path / "tokenizer_config.json", required=False))
    steps += [own] if own is not None else []
    if steps:
        tokenizer.normalizer = steps[0] if len(steps) == 1 else normalizers.Sequence(steps)
    return str(tokenizer.to_str())


def reads_vocabulary(path: Path) -> bool:
    """Return whether a directory's tokenizer is a vocabulary alone."""
    return not (path / "tokenizer.json").is_file() and (path / VOCABULARY).is_file()


def _word_pieces(file: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """Return BERT's tokenizer over a vocabulary, a token a line."""
    tokens = read_text(file, LARGEST_TOKENIZER).split("\n")
    if tokens and not tokens[-1]:
        tokens.pop()
    ids = {token.rstrip("\r"): index for index, token in enumerate(tokens)}
    for token in (_UNKNOWN, _FIRST, _LAST):
        if token not in ids:
            raise CheckpointError(
                f"{file}: has no {token}; save the model's tokenizer.json instead"
            )
    if len(tokens) > int(settings.get("vocab_size") or len(tokens)):
        raise CheckpointError(
            f"{file}: has {len(tokens)} tokens, but the model's vocab_size is "
            f"{shown(settings.get('vocab_size'))}"
        )
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[_FIRST, "$A", _LAST],
        pair=[_FIRST, "$A", _LAST, "$B:1", f"{_LAST}:1"],
        special_tokens=[(token, ids[token]) for token in (_FIRST, _LAST)],
    )
    tokenizer.add_special_tokens(
        [token for token in ("[PAD]", _UNKNOWN, _FIRST, _LAST, "[MASK]") if token in ids]
    )
    return tokenizer


def _normalizer(tokenizer: Tokenizer, options: Mapping[str, Any]) -> normalizers.Normalizer | None:
    """Return a tokenizer's normaliser; transformers has BERT's obey the small file beside it."""
    if tokenizer.normalizer is None:
        return None
    state = json.loads(tokenizer.to_str())["normalizer"]
    generic = options.get("tokenizer_class") == "PreTrainedTokenizerFast"
    if state["type"] != "BertNormalizer" or generic:
        return tokenizer.normalizer
    strip_accents = options.get("strip_accents")
    return normalizers.BertNormalizer(
        clean_text=state["clean_text"],
        handle_chinese_chars=options.get("tokenize_chinese_chars", True) is not False,
        strip_accents=strip_accents if isinstance(strip_accents, bool) else None,
        lowercase=options.get("do_lower_case", True) is not False,
    )
