"""Log probabilities in the shapes that clients of the OpenAI API read."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from typing_extensions import TypedDict

from rbee_runtime.logprobs import TokenLogprobs
from rbee_service.compact_json import json_array, json_bytes, json_object

_LEAST: Final = -9999.0
"""What is told of a token that cannot be: JSON has no infinity."""


class AlternativeLogprob(TypedDict):
    """A token that might have stood in the place of another.

    Attributes:
        token: Its text, in which bytes that are no characters are escaped; its name, where it has
            none.
        logprob: The natural logarithm of its probability, as the model has it.
        bytes: Those of its text; ``None`` where it has none.
    """

    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(TypedDict):
    """A token of an answer.

    Attributes:
        token: As in :class:`AlternativeLogprob`.
        logprob: Likewise.
        bytes: Likewise.
        top_logprobs: The likeliest tokens in its place, the likeliest first.
    """

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[AlternativeLogprob]


class ChatLogprobs(TypedDict):
    """The tokens of an answer to a chat, or of a piece of it."""

    content: list[ContentLogprob]
    refusal: None


class TextLogprobs(TypedDict):
    """The tokens of a continuation of a text, or of a piece of it.

    Each array has an element for each token.

    Attributes:
        tokens: Their texts; see :class:`AlternativeLogprob`.
        token_logprobs: The natural logarithms of their probabilities.
        top_logprobs: Those of the likeliest tokens in the place of each, and its own, by text.
        text_offset: Where their texts begin, in characters of the continuation.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Vocabulary(Protocol):
    """What tokens stand for; see :class:`~rbee_runtime.tokenizer.Tokenizer`."""

    def spelled(self, token_id: int) -> bytes | None: ...  # noqa: D102
    def name(self, token_id: int) -> str: ...  # noqa: D102


class LogprobsTeller(Protocol):
    """Tells of the tokens of one answer, which come in their order."""

    def tell(self, tokens: Sequence[TokenLogprobs]) -> ChatLogprobs | TextLogprobs:
        """Return the next tokens as a client reads them."""


@dataclass(frozen=True, slots=True)
class _Word:
    """A token as it is written: bytes that are no characters are escaped, as ``\\xf0``.

    Attributes:
        text: What it is called.
        spelled: Its bytes, where it is some text.
    """

    text: str
    spelled: bytes | None


class _Words:
    """The tokens of an answer as they are written. The same ones come again and again."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._known: dict[int, _Word] = {}

    def of(self, token_id: int) -> _Word:
        word = self._known.get(token_id)
        if word is None:
            spelled = self._vocabulary.spelled(token_id)
            if spelled is None:
                word = _Word(self._vocabulary.name(token_id) or f"<{token_id}>", None)
            else:
                word = _Word(spelled.decode("utf-8", "backslashreplace"), spelled)
            self._known[token_id] = word
        return word


class ChatLogprobsTeller:
    """Tells of the tokens of an answer to a chat; see :class:`LogprobsTeller`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._words = _Words(vocabulary)

    def tell(self, tokens: Sequence[TokenLogprobs]) -> ChatLogprobs:
        """Return the next tokens as a client reads them."""
        content: list[ContentLogprob] = [
            {
                **self._one(known.token, known.logprob),
                "top_logprobs": [self._one(*other) for other in known.top],
            }
            for known in tokens
        ]
        return {"content": content, "refusal": None}

    def _one(self, token_id: int, logprob: float) -> AlternativeLogprob:
        word = self._words.of(token_id)
        spelled = None if word.spelled is None else list(word.spelled)
        return {"token": word.text, "logprob": max(logprob, _LEAST), "bytes": spelled}


class TextLogprobsTeller:
    """Tells of the tokens of a continuation of a text; see :class:`LogprobsTeller`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._words = _Words(vocabulary)
        self._offset = -1
        self._characters = _Characters()

    def tell(self, tokens: Sequence[TokenLogprobs]) -> TextLogprobs:
        """Return the next tokens as a client reads them."""
        of = self._words.of
        return {
            "tokens": [of(known.token).text for known in tokens],
            "token_logprobs": [max(known.logprob, _LEAST) for known in tokens],
            "top_logprobs": [
                _by_text((of(token).text, logprob) for token, logprob in (*known.top, known[:2]))
                for known in tokens
            ],
            "text_offset": [self._place(known) for known in tokens],
        }

    def _place(self, known: TokenLogprobs) -> int:
        """Return where a token's text begins; of several that were told together, each one's."""
        if known.offset != self._offset:
            self._offset, self._characters = known.offset, _Characters()
        return known.offset + self._characters.before(self._words.of(known.token).spelled or b"")


class LogprobsWriter:
    """Writes what is told of the tokens of one answer while they come.

    Of one token that takes up to 2 kB of JSON: all tokens of a long answer would hold up the event
    loop for a second if they were written in the end.
    """

    def __init__(self, teller: LogprobsTeller) -> None:
        self._teller = teller
        self._arrays = {
            name: bytearray() if isinstance(value, list) else None
            for name, value in teller.tell(()).items()
        }

    def add(self, tokens: Sequence[TokenLogprobs]) -> None:
        """Write the next tokens."""
        for name, told in self._teller.tell(tokens).items():
            array = self._arrays[name]
            if array is not None and told:
                array += (b"," if array else b"") + json_bytes(told)[1:-1]

    def parts(self) -> Iterator[bytes | bytearray]:
        """Yield it all, as JSON."""
        return json_object(
            {
                name: [b"null"] if array is None else json_array([[array]])
                for name, array in self._arrays.items()
            }
        )


class _Characters:
    """Counts the characters of bytes that come in pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._count = 0

    def before(self, more: bytes) -> int:
        """Return how many come before the one that some more bytes begin in, or go on with."""
        # The first of them may end a character, be it that it does not go on with it.
        self._count += len(self._decoder.decode(more[:1]))
        begun, _ = self._decoder.getstate()
        before = self._count - (1 if more and not begun else 0)
        self._count += len(self._decoder.decode(more[1:]))
        return before


def _by_text(words: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return log probabilities by what tokens are called; of two called alike the likelier's."""
    told: dict[str, float] = {}
    for text, logprob in words:
        told[text] = max(logprob, told.get(text, _LEAST))
    return told
