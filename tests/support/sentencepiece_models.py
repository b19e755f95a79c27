"""Small SentencePiece models, trained on a few lines."""

from __future__ import annotations

import functools
import io
from typing import Any

import sentencepiece

from .texts import NASTY, PROSE


@functools.cache
def trained_model(**options: Any) -> bytes:
    """Return the content of a ``tokenizer.model``; by default, of the kind that Llama 2 has."""
    stream = io.BytesIO()
    lines = [*PROSE, *(text for text in NASTY if text.isprintable() and text)] * 4
    named: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 520,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 0.98,
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=stream,
        num_threads=1,
        minloglevel=2,
        **named,
    )
    return stream.getvalue()


@functools.cache
def gemma_model() -> bytes:
    """Return one of the kind that Gemma has: no space in front, runs of spaces as tokens."""
    runs = [mark * n for mark in ("▁", "\n", "\t") for n in range(2, 8)]
    return trained_model(
        user_defined_symbols=",".join(["<start_of_turn>", "<end_of_turn>", *runs[:6], "<h1>"]),
        add_dummy_prefix=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        vocab_size=540,
    )
