"""Text to token ids and back, and chat messages to a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import tokenizers

from rbee_runtime.errors import ArtifactError, InvalidRequest
from rbee_runtime.freed_memory import forget_freed

if TYPE_CHECKING:
    from rbee_runtime.chat_template import ChatTemplate
    from rbee_runtime.constraint.spelling import Speller, Spelling
    from rbee_runtime.reasoning import ReasoningForm
    from rbee_runtime.tools import CallManner


_BEFORE = "\x02"
"""A character that no text has, and that no token has beside another."""

_LONG = 4096
"""Characters that take a few milliseconds to encode."""

_HEAVY = 1 << 16
"""Characters that take megabytes to encode: more than a hundred bytes for each."""


class Tokenizer:
    """A model's tokenizer.

    Attributes:
        chat_template: Jinja source, where the model has one.
        added: Names of the tokens that are found in a text before all others.
        specials: Ids of those of them that :meth:`decode` leaves out, by name.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        chat_template: str | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._one_heavy = Lock()
        self._bos = bos_token_id
        ids = {"bos_token": bos_token_id, "eos_token": eos_token_id}
        names = {key: tokenizer.id_to_token(i) for key, i in ids.items() if i is not None}
        self._special_tokens = {key: name for key, name in names.items() if name is not None}
        self.chat_template = chat_template
        self._template: ChatTemplate | None = None  # compiled when first used
        added = tokenizer.get_added_tokens_decoder()
        self.added: tuple[str, ...] = tuple(token.content for token in added.values())
        self.specials: dict[str, int] = {
            token.content: i for i, token in added.items() if token.special
        }
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        self._byte_ids = _byte_tokens(tokenizer)
        self._texts: dict[int, str] = {}
        self._speller: Speller | None = None  # made when first asked for

    @classmethod
    def open(
        cls,
        file: Path,
        chat_template: str | None,
        bos_token_id: int | None,
        eos_token_id: int | None,
    ) -> Self:
        """Read a ``tokenizer.json``.

        Raises:
            ArtifactError: The file is damaged.
        """
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except BaseException as error:  # the library raises nothing narrower, and may panic
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            message = " ".join(str(error).split())
            raise ArtifactError(f"{file}: not a tokenizer ({message}); export again") from None
        return cls(tokenizer, chat_template, bos_token_id, eos_token_id)

    def encode(self, text: str, name: str = "prompt") -> list[int]:
        """Return the ids of ``text``, with the prefix (such as BOS) the model was trained with.

        Special tokens written in the text are recognised. A text that begins with the prefix, as
        rendered chats often do, does not get it twice.

        Args:
            text: The text.
            name: What to call it in an error.

        Raises:
            InvalidRequest: The text holds half of a surrogate pair, which is no character; or the
                tokenizer gives up on it, as on ten million spaces in a row.
        """
        try:
            ids: list[int]
            if len(text) < _LONG:
                ids = self._tokenizer.encode(text).ids
            else:
                # Only batches are encoded without Python's lock, which nobody else can do without.
                with self._room_for(len(text)):
                    ids = self._tokenizer.encode_batch_fast([text])[0].ids
        except TypeError:
            raise InvalidRequest(name, f"{name} has an unpaired surrogate") from None
        except BaseException as error:  # the library raises nothing narrower, and may panic
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            message = " ".join(str(error).split())
            raise InvalidRequest(name, f"{name} cannot be tokenized: {message}") from None
        if self._bos is not None and ids[:2] == [self._bos, self._bos]:
            return ids[1:]
        return ids

    def encode_all(self, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, as :meth:`encode`; many at once are faster.

        Args:
            texts: The texts.
            names: What to call each in an error.

        Raises:
            InvalidRequest: As :meth:`encode`, of the first text that has it.
        """
        if len(texts) > 1 and self._bos is None:
            try:
                with self._room_for(sum(map(len, texts))):
                    return [one.ids for one in self._tokenizer.encode_batch_fast(list(texts))]
            except BaseException as error:  # which of them it is, the loop below finds out
                if not isinstance(error, Exception) and not is_panic(error):
                    raise
        return [self.encode(text, name) for text, name in zip(texts, names, strict=True)]

    @contextmanager
    def _room_for(self, characters: int) -> Iterator[None]:
        """Have heavy texts wait for each other, and give back what each has taken.

        Else a client with a few prompts of a megabyte would have a process hold a gigabyte for
        good: the system's library keeps what is freed, for every thread.
        """
        if characters < _HEAVY:
            yield
            return
        with self._one_heavy:
            try:
                yield
            finally:
                forget_freed()

    def encode_within(self, text: str) -> Iterator[list[int]]:
        """Yield how ``text`` may be written where it begins no text, special tokens left out.

        Some tokenizers put a space before whatever they are given, which is found out by giving
        them a character more.
        """
        encode = self._tokenizer.encode
        yield encode(text, add_special_tokens=False).ids
        before = encode(_BEFORE, add_special_tokens=False).ids
        together = encode(_BEFORE + text, add_special_tokens=False).ids
        if together[: len(before)] == before:
            yield together[len(before) :]

    def spelling(self) -> Spelling:
        """Return the bytes that each token adds to a text, by id.

        Raises:
            Unspelled: They are not bytes of the text.
        """
        from rbee_runtime.constraint.spelling import spell

        return spell(self._tokenizer)

    def spelled(self, token_id: int) -> bytes | None:
        """Return the bytes that one id adds to a text; ``None`` for one that has none.

        They may be some bytes of a character, or begin with a space that is left out where the
        text begins.
        """
        from rbee_runtime.constraint.spelling import Speller, Unspelled

        name = self.name(token_id)
        if not name or self.is_special(token_id):
            return None
        try:
            self._speller = self._speller or Speller(self._tokenizer)
        except Unspelled:
            return self.decode_alone(token_id).encode()
        return self._speller.spell(name, token_id)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, special tokens left out, broken characters as U+FFFD."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def decode_alone(self, token_id: int) -> str:
        """Return the text of one id by itself, which is remembered."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self.decode([token_id])
        return text

    def is_special(self, token_id: int) -> bool:
        """Return whether :meth:`decode` leaves this id out."""
        return token_id in self._special_ids

    def name(self, token_id: int) -> str:
        """Return what an id is called, special or not; empty for a gap in the vocabulary."""
        return self._tokenizer.id_to_token(token_id) or ""

    def is_byte(self, token_id: int) -> bool:
        """Return whether this id is one byte, whose text hangs on the bytes beside it."""
        return token_id in self._byte_ids

    @cached_property
    def call_manner(self) -> CallManner:
        """How this model is told of functions that it may call, and writes calls.

        Raises:
            InvalidRequest: The model has no chat template, or one that fails.
        """
        from rbee_runtime.tools.probe import find_manner

        return find_manner(self)

    @cached_property
    def reasoning_form(self) -> ReasoningForm | None:
        """How this model marks what it thinks before it answers; ``None`` where it knows nothing of
        that.
        """
        from rbee_runtime.reasoning.probe import find_reasoning

        return find_reasoning(self)

    @cached_property
    def template_variables(self) -> frozenset[str]:
        """Names of what the chat template reads, such as ``messages`` and ``enable_thinking``."""
        from rbee_runtime.chat_template import variables_of

        return frozenset() if self.chat_template is None else variables_of(self.chat_template)

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        """Return the prompt that asks for the next assistant message.

        The template comes from the checkpoint, that is, from strangers: it runs in a sandbox, with
        bounds on time and memory.

        Args:
            messages: Each with ``role`` and ``content``.
            tools: JSON schemas of the functions that the model may call.
            variables: What else the template may read, by name, such as ``enable_thinking``.
            add_generation_prompt: Whether what begins the next message is added.

        Raises:
            InvalidRequest: The model has no template, or the template rejects the messages.
        """
        if self.chat_template is None:
            raise InvalidRequest("messages", "this model has no chat template; send a plain prompt")
        # Jinja takes longer to import than a step to run; what only completes texts has no need.
        from rbee_runtime.chat_template import BadTemplate, ChatTemplate

        # The names and defaults are those of transformers, which templates are written for.
        given = {
            **(variables or {}),
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._special_tokens,
        }
        try:
            if self._template is None:
                self._template = ChatTemplate(self.chat_template)
            return self._template.render(given)
        except BadTemplate as error:
            raise InvalidRequest("messages", f"the chat template failed: {error}") from error


def is_panic(error: BaseException) -> bool:
    """Return whether this is how a panic of the tokenizers library reaches Python.

    It is no :class:`Exception`, and its class has no public name.
    """
    return type(error).__name__ == "PanicException"


def _byte_tokens(tokenizer: tokenizers.Tokenizer) -> frozenset[int]:
    """Return the ids that stand for single bytes, in a tokenizer that falls back to those."""
    names = (tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
    ids = frozenset(i for i in names if i is not None)
    letter = tokenizer.token_to_id("<0x41>")
    return ids if letter is not None and tokenizer.decode([letter]) == "A" else frozenset()
