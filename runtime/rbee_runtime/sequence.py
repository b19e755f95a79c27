"""One request's way through the engine."""

from __future__ import annotations

from enum import Enum, auto

from rbee_runtime.constraint.grammar import Grammar
from rbee_runtime.drafting import Draft, Lookup
from rbee_runtime.events import StopReason
from rbee_runtime.incremental_decoder import IncrementalDecoder
from rbee_runtime.logprobs import TokenLogprobs, UntoldLogprobs
from rbee_runtime.request import Request
from rbee_runtime.sampling import RowSampler
from rbee_runtime.stopping import StopMatcher
from rbee_runtime.tokenizer import Tokenizer


class Phase(Enum):
    """Where a sequence stands."""

    WAITING = auto()
    PREFILL = auto()
    DECODE = auto()
    FINISHED = auto()


class Sequence:
    """A request's state: waiting, prefill, decode, finished.

    Attributes:
        request: What was asked for.
        prompt: The prompt's token ids.
        length: Positions it may grow to.
        sampler: Its sampling state.
        phase: Where it stands.
        slot: Its cache slot, while it has one.
        cached: Positions of the slot that are filled.
        reused: Of these, how many an earlier sequence had computed.
        tokens: Completion ids so far, an end-of-text id not among them.
        drafted: Guesses of its tokens that were run along.
        accepted: How many of them came true.
        stop_reason: Why it finished.
        untold: Tokens whose log probabilities are to be told and were not yet; ``None`` where
            nobody asked for any.
    """

    def __init__(
        self,
        request: Request,
        prompt: list[int],
        length: int,
        tokenizer: Tokenizer,
        eos: frozenset[int],
        *,
        grammar: Grammar | None = None,
        expected: list[int] | None = None,
    ) -> None:
        self.request = request
        self.prompt = prompt
        self.length = length
        self.sampler = RowSampler(request.sampling, prompt)
        self._grammar = grammar
        if grammar is not None:
            self.sampler.allowed = grammar.allowed
        self.phase = Phase.WAITING
        self.slot: int | None = None
        self.cached = 0
        self.reused = 0
        self.tokens: list[int] = []
        self.drafted = 0
        self.accepted = 0
        self.stop_reason: StopReason | None = None
        self._eos = eos
        # A long one takes a while to be read, and nobody waits yet.
        self._lookup = Lookup(prompt, expected) if expected else None
        shown = request.shown | grammar.shown if grammar else request.shown
        self._decoder = IncrementalDecoder(tokenizer, shown)
        self._matcher = StopMatcher(request.stop)
        asked = request.sampling.logprobs is not None
        self.untold = UntoldLogprobs() if asked else None

    @property
    def stop_sequence(self) -> str | None:
        """The stop string that ended it."""
        return self._matcher.matched

    def begin(self, slot: int) -> None:
        """Take a cache slot; prefill comes next."""
        self.slot = slot
        self.phase = Phase.PREFILL

    def reuse(self, positions: int) -> None:
        """Count what an earlier sequence had computed of the prompt as filled."""
        self.cached = self.reused = positions

    def ids(self, start: int, stop: int) -> list[int]:
        """Return the tokens at some positions, of prompt and completion."""
        size = len(self.prompt)
        if stop <= size:
            return self.prompt[start:stop]
        return self.prompt[start:] + self.tokens[max(0, start - size) : stop - size]

    def pending(self, limit: int) -> list[int]:
        """Return the tokens the model has not seen yet, at most ``limit``."""
        if self.phase is Phase.DECODE:
            return self.tokens[-1:]
        return self.prompt[self.cached : self.cached + limit]

    def draws_after(self, count: int) -> bool:
        """Return whether a token is to be sampled once ``count`` more positions are filled."""
        return self.phase is Phase.DECODE or self.cached + count == len(self.prompt)

    def draft(self, most: int) -> Draft | None:
        """Return at most so many tokens that may follow the one that the model sees next."""
        lookup, grammar = self._lookup, self._grammar
        if lookup is None:
            lookup = self._lookup = Lookup([*self.prompt, *self.tokens])
        if grammar is None and not lookup.at:
            return None
        # The last one that may come is drawn, and not run.
        most = min(most, self.length - len(self.prompt) - len(self.tokens) - 1)
        if most < 1:
            return None
        if grammar is None:
            return lookup.draft(most)
        forced = grammar.forced(most)
        if forced:
            return Draft(forced, [1.0] * len(forced))
        draft = lookup.draft(most)
        return draft if draft and grammar.allowed[draft.tokens[0]] else None

    def advance(self, count: int) -> bool:
        """Count ``count`` more positions as filled; return whether a token is to be sampled now."""
        draws = self.draws_after(count)
        self.cached += count
        if draws:
            self.phase = Phase.DECODE
        return draws

    def accept(self, token: int) -> str:
        """Take a sampled token and return the text that became certain by it, which may be empty.

        Sets :attr:`stop_reason` when the completion ends with it.

        Raises:
            InferenceFailed: What the completion is held to cannot be followed any further.
        """
        if token in self._eos:
            return self.finish(StopReason.EOS)
        self.tokens.append(token)
        if self._lookup is not None:
            self._lookup.push(token)
        decoded = self._decoder.push(token)
        if self.untold is not None and self.sampler.logprobs is not None:
            self.untold.add(self.sampler.logprobs, len(decoded))
        text = self._matcher.push(decoded)
        if self._matcher.matched is not None:
            self.phase, self.stop_reason = Phase.FINISHED, StopReason.STOP_SEQUENCE
        elif self._completes_grammar(token):
            text += self.finish(StopReason.EOS)
        elif len(self.prompt) + len(self.tokens) >= self.length:
            text += self.finish(StopReason.MAX_TOKENS)
        return text

    def _completes_grammar(self, token: int) -> bool:
        """Follow the constraint over a token; return whether nothing may come after it."""
        if self._grammar is None:
            return False
        self._grammar.advance(token)
        self.sampler.allowed = self._grammar.allowed
        return self._grammar.is_complete

    def finish(self, reason: StopReason) -> str:
        """End the completion and return the text still held back."""
        text = self._matcher.push(self._decoder.flush()) + self._matcher.flush()
        self.phase = Phase.FINISHED
        self.stop_reason = reason if self._matcher.matched is None else StopReason.STOP_SEQUENCE
        return text

    def take_logprobs(self, text: str) -> tuple[TokenLogprobs, ...]:
        """Return what is to be told of tokens together with text that became certain."""
        if self.untold is None:
            return ()
        rest = self.stop_reason not in (None, StopReason.STOP_SEQUENCE)
        return self.untold.take(len(text), rest=rest)
