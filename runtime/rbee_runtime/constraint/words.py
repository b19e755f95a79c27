"""A model's tokens as llguidance, the library of grammars, knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from rbee_runtime.constraint.spelling import Spelling
    from rbee_runtime.tokenizer import Tokenizer


def known_to_library(tokenizer: Tokenizer, vocab: int) -> LLTokenizer:
    """Return a vocabulary as the library knows it, with one token more that stands for the end.

    Raises:
        Unspelled: The tokens are not bytes.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    words = Words(tokenizer, vocab)
    return LLTokenizer(TokenizerWrapper(words), n_vocab=vocab + 1)


class Words:
    """A tokenizer as the library asks for one.

    Args:
        tokenizer: The tokenizer.
        vocab: Columns of the model's logits: how many tokens it has, gaps included.

    Attributes:
        eos_token_id: The end of a text.
        bos_token_id: None.
        tokens: The bytes of each token.
        special_token_ids: Tokens that are no text.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        spelling: Spelling = [*tokenizer.spelling()[:vocab]]
        spelling += [None] * (vocab + 1 - len(spelling))
        self.eos_token_id = vocab
        self.tokens = [spelled or b"<%d>" % i for i, spelled in enumerate(spelling)]
        self.special_token_ids = [i for i, spelled in enumerate(spelling) if not spelled]
        self._tokenizer = tokenizer
        self._ids = {spelled: i for i, spelled in enumerate(spelling) if spelled}
        self._longest = max(map(len, self._ids), default=1)

    def __call__(self, text: bytes) -> list[int]:
        """Return the tokens that a text is usually written with: these bytes and no others."""
        try:
            for ids in self._tokenizer.encode_within(text.decode()):
                if b"".join(self.tokens[i] for i in ids if i < len(self.tokens)) == text:
                    return ids
        except UnicodeDecodeError:
            pass  # it ends amid a character
        return self._longest_first(text)

    def _longest_first(self, text: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(text):
            ends = range(min(len(text), at + self._longest), at, -1)
            end = next((end for end in ends if text[at:end] in self._ids), None)
            if end is None:
                break  # no token has this byte: what comes before it is all that can be said
            ids.append(self._ids[text[at:end]])
            at = end
        return ids
