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


_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CAPITALISED = r"[^\r\n\p{L}\p{N}]?" + f"{_UPPER}*{_LOWER}+"
_CAPITALS = r"[^\r\n\p{L}\p{N}]?" + f"{_UPPER}+{_LOWER}*"

_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3_WORDS = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_SIGNS}[\r\n]*|{_SPACES}"
_QWEN2_WORDS = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_SIGNS}[\r\n]*|{_SPACES}"
_MARKED_LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_QWEN35_WORDS = (
    rf"{_CONTRACTIONS}|{_MARKED_LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_TEKKEN_WORDS = rf"{_CAPITALISED}|{_CAPITALS}|\p{{N}}|{_SIGNS}[\r\n/]*|{_SPACES}"
_GPT4O_WORDS = (
    rf"{_CAPITALISED}{_CONTRACTIONS}?|{_CAPITALS}{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{_SIGNS}[\r\n/]*|{_SPACES}"
)
_DEEPSEEK_HAN = "[一-龥ࠀ-一가-퟿]+"
# Letters that have two cases, as Unicode knew them when DeepSeek's first tokenizer was made. Those
# that normalisation would turn into others are written as escapes.
_DEEPSEEK_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕ"
    "Ἐ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼ"
    "ℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗ"
    "Ａ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)

_DEFAULT = Splitting((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))
_GPT2 = Splitting((_GPT2_WORDS,))
_STARCODER = Splitting((_GPT2_WORDS,), single_digits=True)
_LLAMA3 = Splitting((_LLAMA3_WORDS,), ignore_merges=True, adds_bos=True)
_QWEN2 = Splitting((_QWEN2_WORDS,), nfc=True)
# Signs and the ends of lines behind them are pieces of their own.
_SEED_CODER = Splitting((rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_SIGNS}|{_SPACES}",))
_TEKKEN = Splitting((_TEKKEN_WORDS,), ignore_merges=True, adds_bos=True)
_DBRX = Splitting((_LLAMA3_WORDS,))
# Llama 3's tokenizer without its beginning of text, e.g. in SmolLM3.
_SMAUG = Splitting((_LLAMA3_WORDS,), ignore_merges=True)
_GPT4O = Splitting((_GPT4O_WORDS,))
_DEEPSEEK_LLM = Splitting(
    (
        r"[\r\n]",
        rf"\s?[{_DEEPSEEK_LETTERS}]+",
        r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
        r"\s+$",
        _DEEPSEEK_HAN,
        r"\p{N}",
    )
)
_DEEPSEEK_CODER = Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_HAN, r"\p{N}"))
_DEEPSEEK_V3 = Splitting(
    (
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        r"|" + _SPACES,
    )
)

SPLITTINGS: Mapping[str, Splitting] = MappingProxyType(
    {
        "default": _DEFAULT,
        "gpt-2": _GPT2,
        "phi-2": _GPT2,
        "granite-docling": _GPT2,
        "exaone4": _GPT2,
        "olmo": Splitting((_GPT2_WORDS,), nfc=True),
        "smollm": _STARCODER,
        "starcoder": _STARCODER,
        "refact": _STARCODER,
        "command-r": _STARCODER,
        "llama-bpe": _LLAMA3,
        "llama-v3": _LLAMA3,
        "llama3": _LLAMA3,
        "lfm2": _LLAMA3,
        "smaug-bpe": _SMAUG,
        "dbrx": _DBRX,
        "glm4": _DBRX,
        "chatglm-bpe": _DBRX,
        "tekken": _TEKKEN,
        "qwen2": _QWEN2,
        "qwen35": Splitting((_QWEN35_WORDS,), nfc=True),
        "stablelm2": Splitting((_QWEN2_WORDS,)),
        "seed-coder": _SEED_CODER,
        "gpt-4o": _GPT4O,
        "llama4": _GPT4O,
        "deepseek-llm": _DEEPSEEK_LLM,
        "deepseek-coder": _DEEPSEEK_CODER,
        "deepseek-v3": _DEEPSEEK_V3,
        "hunyuan-dense": _DEEPSEEK_V3,
        "deepseek-r1-qwen": _QWEN2,
    }
)
