"""Holding a completion to a constraint: which tokens may come next, from one token to the next."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.constraint import AfterReasoning, Constraint, JsonSchema, Regex, ToolCalls
from rbee_runtime.constraint.call_check import check_calls
from rbee_runtime.constraint.call_grammar import shown
from rbee_runtime.constraint.json_schema import check_schema
from rbee_runtime.constraint.repetition import MOST_REPETITIONS, repetitions
from rbee_runtime.constraint.source import arguments_schema, source
from rbee_runtime.constraint.spelling import Unspelled
from rbee_runtime.constraint.words import known_to_library
from rbee_runtime.errors import InferenceFailed, InvalidRequest, OutOfMemory, QueueFull

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    from rbee_runtime.tokenizer import Tokenizer

_STACK: Final = 64 << 20
"""Bytes of stack of whatever compiles: what it goes down is as deep as a schema's parts lead."""

_PATIENCE: Final = 2.0
"""Seconds that a request waits for others to be compiled."""

_ALLOWANCE: Final = 0.1
_PER_TOKEN: Final = 0.002
"""Seconds of the processor that the masks of a completion may take, and how many more for each of
its tokens. Most take a tenth of a millisecond.
"""

_LONGEST_REASON: Final = 200

ResultT = TypeVar("ResultT")


class Grammars:
    """Compiles constraints for one model.

    What that needs of the vocabulary is built for the first constraint: a worker that is asked for
    none neither waits for it nor holds it.

    Args:
        tokenizer: The model's.
        vocab: Columns of its logits.
        eos: Tokens that end a completion.
    """

    def __init__(self, tokenizer: Tokenizer, vocab: int, eos: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab = vocab
        self._eos = np.asarray(sorted(eos), np.intp)
        self._turn = threading.Lock()
        self._library: LLTokenizer | None = None
        self._latest: tuple[Constraint, weakref.ref[Grammar]] | None = None

    def compile(self, constraint: Constraint) -> Grammar:
        """Return what holds one completion to a constraint. Takes milliseconds, or many of them.

        One is compiled at a time, so that no more than one core is taken from the engine. Where the
        same constraint is asked for again, and the first completion held to it is not done, it is
        not compiled again: so the choices of one request share one.

        Raises:
            InvalidRequest: The constraint is malformed, cannot be enforced, or is too large; or
                the model's tokenizer is of a kind that cannot be held to any.
            QueueFull: Others take too long to be compiled.
            OutOfMemory: There is none for the stack that compiling may take.
        """
        latest = self._latest
        if latest is None or latest[0] is not constraint:
            _check(constraint)
        if not self._turn.acquire(timeout=_PATIENCE):
            raise QueueFull("too many constraints are being compiled")
        try:
            latest = self._latest
            known = latest[1]() if latest is not None and latest[0] is constraint else None
            if known is not None:
                with suppress(InferenceFailed):
                    return known.again()
            grammar = _on_a_deep_stack(lambda: self._compile(constraint))
            self._latest = (constraint, weakref.ref(grammar))
            return grammar
        finally:
            self._turn.release()

    def _compile(self, constraint: Constraint) -> Grammar:
        name = constraint.called
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise InvalidRequest(
                name, f"{name} is not served here: the package llguidance is not installed"
            ) from None
        if self._library is None:
            try:
                self._library = known_to_library(self._tokenizer, self._vocab)
            except Unspelled:
                message = f"{name} is not served with this model, whose tokens are not bytes"
                raise InvalidRequest(name, message) from None
        # Some tokenizers have tokens that the model has no logits for.
        specials = {name: i for name, i in self._tokenizer.specials.items() if i < self._vocab}
        try:
            written = source(constraint, specials, self._eos.tolist())
        except ValueError as error:
            raise InvalidRequest(name, f"{name}: {_reason(str(error))}") from None
        matcher = LLMatcher(self._library, written, log_level=0, limits=_limits())
        grammar = Grammar(matcher, self._vocab, self._eos)
        answer = constraint.answer if isinstance(constraint, AfterReasoning) else constraint
        if isinstance(answer, ToolCalls):
            grammar.shown = shown(answer, specials)
        try:
            grammar.begin()
        except InferenceFailed:
            if isinstance(answer, ToolCalls):
                for function in answer.functions:
                    # The one whose fault it is says so.
                    self._compile(JsonSchema(arguments_schema(function), function.called))
            raise InvalidRequest(name, f"{name}: {_reason(matcher.get_error())}") from None
        return grammar


class Grammar:
    """A constraint as far as a completion has come in it. For one thread at a time.

    Attributes:
        allowed: ``bool[vocab]``, the tokens that may come next; another array whenever they change.
        is_complete: Whether nothing may follow.
        shown: Special tokens that are part of what the constraint asks for, and so of the text.
    """

    def __init__(self, matcher: LLMatcher, vocab: int, eos: NDArray[np.intp]) -> None:
        self._matcher = matcher
        self._unused = matcher  # nothing is known of it before it has begun
        self._vocab = vocab
        self._eos = eos
        # One more than the model has: the end of the text, which may be any of several tokens.
        self._bits = np.zeros(vocab // 32 + 1, np.int32)
        self._known = b""
        self._left = _ALLOWANCE
        self.allowed: NDArray[np.bool_] = np.zeros(vocab, np.bool_)
        self.is_complete = False
        self.shown: frozenset[int] = frozenset()

    def begin(self) -> None:
        """Find what may come first.

        Raises:
            InferenceFailed: Nothing may, or it takes too much to say.
        """
        self._require_sound()
        self._find()
        self._unused = self._matcher.deep_copy()

    def again(self) -> Grammar:
        """Return the constraint as at its beginning, for another completion.

        What either explores both know, and the library's limits on that are those of both: so it
        is not for completions that have nothing to do with each other.

        Raises:
            InferenceFailed: The limits are reached.
        """
        grammar = Grammar(self._unused.deep_copy(), self._vocab, self._eos)
        grammar.shown = self.shown
        grammar.begin()
        return grammar

    def advance(self, token: int) -> None:
        """Take the token that came and find what may follow.

        Raises:
            InferenceFailed: It takes too much to say, or the token was not allowed.
        """
        began = time.thread_time()
        self._matcher.consume_token(token)
        self._require_sound()
        if self._matcher.is_stopped():
            self.is_complete = True
            return
        self._find()
        self._left += _PER_TOKEN - (time.thread_time() - began)
        if self._left < 0.0:
            raise InferenceFailed("the constraint takes too long to follow; ask for a simpler one")

    def forced(self, most: int) -> list[int]:
        """Return the tokens that come next whatever is drawn, at most so many of them."""
        if self.is_complete:
            return []
        began = time.thread_time()
        forced = self._matcher.compute_ff_tokens()[:most]
        self._left -= time.thread_time() - began
        return forced

    def _find(self) -> None:
        bits = self._bits
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        self._require_sound()
        known = bits.tobytes()
        if known == self._known:
            return
        self._known = known
        unpacked = np.unpackbits(bits.view(np.uint8), bitorder="little").view(np.bool_)
        self.allowed = unpacked[: self._vocab]
        if unpacked[self._vocab]:
            self.allowed[self._eos] = True

    def _require_sound(self) -> None:
        if self._matcher.is_error():
            reason = _reason(self._matcher.get_error())
            raise InferenceFailed(f"the constraint cannot be followed any further: {reason}")


def _check(constraint: Constraint) -> None:
    """Let a constraint pass that is not too large.

    Raises:
        InvalidRequest: It is, or has something that cannot be enforced.
    """
    match constraint:
        case JsonSchema():
            check_schema(constraint)
        case ToolCalls():
            check_calls(constraint)
        case AfterReasoning():
            _check(constraint.answer)
        case Regex(pattern, name):
            if repetitions(pattern) > MOST_REPETITIONS:
                raise InvalidRequest(name, f"{name} has more than {MOST_REPETITIONS} characters")


def _limits() -> LLParserLimits:
    """Return what one step of one matcher may take: some ten milliseconds, some ten megabytes."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=500,
        step_lexer_fuel=50_000,
        step_max_items=20_000,
        max_lexer_states=20_000,
        verbose_errors=False,
    )


def _on_a_deep_stack(job: Callable[[], ResultT]) -> ResultT:
    """Run a job on a thread with more stack than a thread has by itself, and wait for it."""
    outcome: list[ResultT] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(job())
        except BaseException as error:  # whatever it is, it is raised where somebody waits
            failure.append(error)

    usual = threading.stack_size(_STACK)
    try:
        thread = threading.Thread(target=run, name="rbee-grammar", daemon=True)
        thread.start()
    except RuntimeError as error:
        raise OutOfMemory(f"no constraint can be compiled now: {error}") from None
    finally:
        threading.stack_size(usual)
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _reason(message: str) -> str:
    """Return what the library says, in one line and without what it repeats of the constraint."""
    if message.startswith("NoExtension"):
        return "no text fulfils it"
    _, of_pattern, fault = message.rpartition("\nerror: ")
    if of_pattern:
        message = f"in a pattern, {fault}"
    if message.startswith("panic"):
        message = "it is too large"
    if "oneOf" in message:
        message = "oneOf is served where no value fits two of it for certain; ask for anyOf"
    line = " ".join(message.partition("\n")[0].split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"
