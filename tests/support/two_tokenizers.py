"""Tokenizers as the two great kinds of checkpoints have them."""

from __future__ import annotations

import functools

import tokenizers
from tokenizers import decoders, models, normalizers

from rbee_runtime.tokenizer import Tokenizer

from .tiny_llama import tokenizer_json


@functools.cache
def byte_level() -> Tokenizer:
    """Return one whose tokens are any bytes, as GPT-2's; three special tokens come first."""
    return Tokenizer(tokenizers.Tokenizer.from_str(tokenizer_json()))


@functools.cache
def byte_fallback() -> Tokenizer:
    """Return one with a token for each byte its words lack, as Llama 2's; BOS is put in front."""
    words = ["▁", *"abcdehlorwé好", "▁h", "ll", "lo", "▁w", "or"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    merges = [("▁", "h"), ("l", "l"), ("l", "o"), ("▁", "w"), ("o", "r")]
    library = tokenizers.Tokenizer(
        models.BPE(
            {name: i for i, name in enumerate(names)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return Tokenizer(library, bos_token_id=1)
