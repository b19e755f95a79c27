"""A query and each of several documents as one text, as the model was trained to read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rbee_runtime.errors import InputTooLong
from rbee_runtime.tokenizer import Tokenizer, is_panic


class Pair(NamedTuple):
    """A query and a document.

    Attributes:
        ids: Token ids, special ones included.
        types: Type of each: whether it is of the query or of the document, to models that ask.
    """

    ids: list[int]
    types: list[int]


class PairTokenizer(Tokenizer):
    """A tokenizer that puts two texts into one."""

    def pairs(
        self, query: str, documents: Sequence[str], longest: int, names: Sequence[str]
    ) -> list[Pair]:
        """Return the query beside each document, of which the end is cut off where it is too long.

        Args:
            query: What comes first.
            documents: What comes second.
            longest: Tokens of a pair at most.
            names: What to call each document in an error.

        Raises:
            InvalidRequest: A text holds half of a surrogate pair, or the tokenizer gives up on it.
            InputTooLong: The query leaves no room for a document.
        """
        tokenizer = self._tokenizer
        try:
            # The query is read once, not beside each document anew.
            encoded = tokenizer.encode_batch_fast([query, *documents], add_special_tokens=False)
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            # Which of them it is:
            self.encode(query, "query")
            for document, name in zip(documents, names, strict=True):
                self.encode(document, name)
            raise
        first, *others = encoded
        beside = len(first) + tokenizer.num_special_tokens_to_add(is_pair=True)
        if beside >= longest:
            remedy = "one of them is a document's: shorten the query"
            raise InputTooLong("query", beside + 1, longest, remedy)
        found = []
        for second in others:
            if len(second) > longest - beside:
                second.truncate(longest - beside)
            whole = tokenizer.post_process(first, second)
            found.append(Pair(whole.ids, whole.type_ids))
        return found
