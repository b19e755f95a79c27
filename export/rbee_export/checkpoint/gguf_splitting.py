"""How byte-level BPE tokenizers cut text into words before they merge bytes.

A GGUF file holds no pattern, only the name of one in ``tokenizer.ggml.pre``. The patterns are those
of the models' own tokenizers; the names, and the defaults that go with them, are llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer


@dataclass(frozen=True, slots=True)
class Splitting:
    """One value of ``tokenizer.ggml.pre``.

    Attributes:
        patterns: Regular expressions, applied one after the other, each to the pieces that the one
            before it left. A match becomes a piece, and so does what lies between two matches.
        single_digits: Every digit is a piece of its own, before any pattern applies.
        nfc: Text is brought into Unicode normalisation form C first.
        ignore_merges: A piece that is a token as a whole is taken as it is, whatever the merges
            would make of it.
        adds_bos: A beginning-of-text token precedes the text where the file does not say.
    """

    patterns: tuple[str, ...]
    single_digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False

    def pre_tokenizer(self) -> PreTokenizer:
        """Return the splitter; its pieces are bytes, each written as the letter standing for it."""
        steps: list[PreTokenizer] = []
        if self.single_digits:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        steps += [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        return pre_tokenizers.Sequence(steps)


_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_DEFAULT = Splitting((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))
_GPT2 = Splitting((_GPT2_WORDS,))
_STARCODER = Splitting((_GPT2_WORDS,), single_digits=True)
_LLAMA3 = Splitting((_LLAMA3_WORDS,), ignore_merges=True, adds_bos=True)
_QWEN2 = Splitting((_QWEN2_WORDS,), nfc=True)
_TEKKEN = Splitting((_TEKKEN_WORDS,), ignore_merges=True, adds_bos=True)

SPLITTINGS: Mapping[str, Splitting] = MappingProxyType(
    {
        "default": _DEFAULT,
        "gpt-2": _GPT2,
        "phi-2": _GPT2,
        "smollm": _STARCODER,
        "starcoder": _STARCODER,
        "refact": _STARCODER,
        "llama-bpe": _LLAMA3,
        "llama-v3": _LLAMA3,
        "llama3": _LLAMA3,
        "tekken": _TEKKEN,
        "qwen2": _QWEN2,
    }
)
