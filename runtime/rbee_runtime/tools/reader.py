"""Reading calls of functions out of an answer that comes in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from rbee_runtime.constraint import CallForm
from rbee_runtime.tools.head import Head
from rbee_runtime.tools.json_extent import JsonExtent


@dataclass(frozen=True, slots=True)
class Text:
    """Some of the text of an answer, which is no call.

    Attributes:
        text: Never empty.
    """

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of a function; its arguments follow.

    Attributes:
        name: Of the function.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """Some of the arguments of the call that began last.

    Attributes:
        text: A piece of JSON, never empty.
    """

    text: str


Said: TypeAlias = Text | CallBegun | Arguments
"""What an answer says."""


class CallReader:
    """Tells the calls in an answer from its text.

    Text is given out as soon as it can be no part of a call, and the syntax of calls never. What
    follows the last call is dropped. White space between the parts of a call makes no difference,
    since decoders of tokens may leave some out.

    Args:
        form: How the model writes calls.
        required: Whether the answer is calls and nothing else.

    Attributes:
        calls: How many have begun.
        is_within_call: Whether one has begun, or must, that has not come to its end.
    """

    def __init__(self, form: CallForm, *, required: bool = False) -> None:
        self._form = form
        self._rest = form.opening.removeprefix(form.marker)
        self._head = Head(form.opening if required else self._rest, form.middle)
        self._arguments = JsonExtent()
        self._held = ""
        self._read: Callable[[], Iterator[Said]] = self._read_text
        if required:
            self._read = self._read_head
        elif not form.marks_anywhere:
            self._read = self._read_first
        self._required = required
        self.calls = 0
        self.is_within_call = required

    def push(self, text: str) -> list[Said]:
        """Take a piece of the answer and return what became certain by it."""
        self._held += text
        said: list[Said] = []
        while self._held:
            before = (self._read, len(self._held))
            said += self._read()
            if (self._read, len(self._held)) == before:
                break
        return said

    def flush(self, *, cut_off: bool = False) -> list[Said]:
        """Return what was held back, at the end of the answer.

        Args:
            cut_off: Whether more might have come: then what might have become a call is dropped.
        """
        held, self._held = self._held, ""
        is_text = held and not cut_off and not self.is_within_call and self.calls == 0
        return [Text(held)] if is_text else []

    def _read_first(self) -> Iterator[Said]:
        """Read the beginning, where an answer begins as calls do or is none."""
        if self._held.startswith(self._form.marker):
            self._begin_call()
        elif not self._form.marker.startswith(self._held):
            self._read = self._read_rest
        yield from ()

    def _read_rest(self) -> Iterator[Said]:
        """Read text that no call can follow."""
        yield from self._give(len(self._held))

    def _read_text(self) -> Iterator[Said]:
        marker = self._form.marker
        at = self._held.find(marker)
        if at >= 0:
            yield from self._give(at)
            self._begin_call()
            return
        kept = next(
            length
            for length in range(min(len(marker) - 1, len(self._held)), -1, -1)
            if marker.startswith(self._held[len(self._held) - length :])
        )
        yield from self._give(len(self._held) - kept)

    def _give(self, length: int) -> Iterator[Said]:
        text, self._held = self._held[:length], self._held[length:]
        if text:
            yield Text(text)

    def _begin_call(self) -> None:
        self._held = self._held[len(self._form.marker) :]
        self._head = Head(self._rest, self._form.middle)
        self._read = self._read_head
        self.is_within_call = True

    def _read_head(self) -> Iterator[Said]:
        """Read what stands before the arguments of a call."""
        read = self._head.push(self._held)
        self._held = self._held[read:]
        if self._head.is_complete:
            self.calls += 1
            self.is_within_call = True
            self._arguments = JsonExtent()
            self._read = self._read_arguments
            yield CallBegun(self._head.name)
        elif self._head.has_failed:
            # It began like a call and is none.
            if self.calls or self._required:
                self._read = self._drop
                self.is_within_call = False
                return
            self.is_within_call = False
            self._held = self._head.seen + self._held
            self._read = self._read_text if self._form.marks_anywhere else self._read_rest
            yield Text(self._form.marker)

    def _read_arguments(self) -> Iterator[Said]:
        piece, read = self._arguments.push(self._held)
        self._held = self._held[read:]
        if piece:
            yield Arguments(piece)
        if self._arguments.is_complete:
            self.is_within_call = False
            if self._form.between is None:
                self._read = self._drop
            else:
                self._head = Head(self._form.between, self._form.middle)
                self._read = self._read_head

    def _drop(self) -> Iterator[Said]:
        self._held = ""
        yield from ()
