"""One of the choices of an answer of the OpenAI API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from rbee_runtime.events import Event
from rbee_runtime.logprobs import TokenLogprobs
from rbee_service.backend import BackendStatus
from rbee_service.events import End, MeasuredOutput, Output, TokenOutput
from rbee_service.http.inferences import Begun
from rbee_service.inference import Account
from rbee_service.openai.answer_teller import AnswerTeller
from rbee_service.openai.answers import Envelope
from rbee_service.openai.errors import OpenAiError
from rbee_service.openai.logprobs import LogprobsTeller, LogprobsWriter
from rbee_service.openai.prompt import WrittenChat
from rbee_service.openai.tool_answers import AnswerDelta


class Choice:
    """One of the choices of an answer: read whole, or told while it comes.

    Args:
        begun: Its inference.
        envelope: Around it.
        chat: What it answers, if it is a chat.
        logprobs: Tells of its tokens, where that was asked for.

    Attributes:
        begun: Its inference.
        envelope: Around it.
    """

    def __init__(
        self,
        begun: Begun[Event, TokenOutput],
        envelope: Envelope,
        chat: WrittenChat | None,
        logprobs: LogprobsTeller | None,
    ) -> None:
        self.begun = begun
        self.envelope = envelope
        self._answer = None if chat is None else AnswerTeller(chat)
        self._logprobs = logprobs
        self._written = None if logprobs is None else LogprobsWriter(logprobs)
        self._begun = False
        self._texts: list[str] = []
        self._untold: list[TokenLogprobs] = []

    @property
    def account(self) -> Account:
        """What it took, once the end has been read."""
        account = self.begun.account
        return account if self._answer is None else self._answer.completed(account)

    def take(self, told: Output[TokenOutput]) -> None:
        """Keep some text for the whole."""
        if self._answer is None:
            self._texts.append(told.output.t)
        else:
            self._keep(self._answer.push(told.output.t, told.items))
        if self._written is not None and isinstance(told.output, MeasuredOutput):
            self._written.add(told.output.logprobs)

    def whole(self) -> Iterator[bytes | bytearray]:
        """Yield the choice of an answer that is not streamed, as JSON."""
        stop = self.begun.account.stop
        if self._answer is not None:
            self._keep(self._answer.flush(stop))
        logprobs = [b"null"] if self._written is None else self._written.parts()
        return self.envelope.choice("".join(self._texts), stop, self._answer, logprobs)

    def first(self) -> Iterator[dict[str, object]]:
        """Yield the chunk that comes before the first text, where there is one."""
        # Whether what may call functions begins with a text is not known yet.
        if self._answer is None or self._answer.calls is None:
            yield from self._begin("")

    def pieces(self, told: Output[TokenOutput]) -> Iterator[dict[str, object]]:
        """Yield the chunks that tell of some text: none while it may become a marker or a call."""
        output = told.output
        self._keep_logprobs(output)
        if self._answer is None:
            yield self.envelope.piece(output.t, self._tell())
            return
        for delta in self._answer.push(output.t, told.items):
            yield from self._add(delta)

    def last(self, ended: End) -> Iterator[dict[str, object]]:
        """Yield the chunks that tell what was held back, and why it ended."""
        if self._answer is not None:
            for delta in self._answer.flush(ended.stop_reason):
                yield from self._add(delta)
            yield from self._begin("")
        # Of tokens that nothing was said of: the syntax that ends a call.
        rest = self._tell() if self._untold else None
        yield self.envelope.last(ended, self._answer, rest)

    def _keep(self, deltas: Iterable[AnswerDelta]) -> None:
        self._texts += (delta["content"] for delta in deltas if "content" in delta)

    def _add(self, delta: AnswerDelta) -> Iterator[dict[str, object]]:
        yield from self._begin("" if "content" in delta else None)
        yield self.envelope.delta(delta, self._tell())

    def _begin(self, content: Literal[""] | None) -> Iterator[dict[str, object]]:
        if self.envelope.chat and not self._begun:
            self._begun = True
            yield self.envelope.first(content)

    def _keep_logprobs(self, output: TokenOutput) -> None:
        if isinstance(output, MeasuredOutput):
            self._untold += output.logprobs

    def _tell(self) -> object | None:
        """Return what a client is told of the tokens so far, once; ``None`` if it did not ask."""
        if self._logprobs is None:
            return None
        untold, self._untold = self._untold, []
        return self._logprobs.tell(untold)


def check_choices(status: BackendStatus, n: int) -> None:
    """Let a request pass of which all choices can be taken at once, if not now.

    Args:
        status: Of what answers.
        n: How many choices are asked for.

    Raises:
        OpenAiError: They never can.
    """
    most = status.slots_total + status.queue_total
    if n > most:
        message = (
            f"n must be at most {most} here: "
            f"{status.slots_total} are served at a time, and {status.queue_total} more may wait"
        )
        raise OpenAiError(message, "n", "invalid_value")
