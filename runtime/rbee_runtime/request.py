"""What a caller asks of the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rbee_runtime.constraint import Constraint
from rbee_runtime.errors import InvalidRequest
from rbee_runtime.logprobs import MOST_ALTERNATIVES

U64_MAX = 2**64 - 1


def _require(holds: bool, name: str, constraint: str) -> None:
    if not holds:
        raise InvalidRequest(name, f"{name} must be {constraint}")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn from the logits of one row.

    They apply in the order of the fields, each to what the one before it left: penalties and bias
    to the logits, then temperature, top-k, top-p, min-p.

    Attributes:
        repetition_penalty: Divides positive and multiplies negative logits of tokens already
            in the sequence (Keskar et al. 2019, CTRL). 1.0 is off.
        frequency_penalty: Taken from a token's logit for every time it has been drawn, prompt not
            counted; 0.0 is off.
        presence_penalty: Taken from the logit of a token that has been drawn at all; 0.0 is off.
        logit_bias: Added to the logits of these token ids.
        temperature: Divides the logits; 0.0 means greedy, and switches the filters below off.
        top_k: Keep the k most likely tokens; 0 is off.
        top_p: Keep the smallest set of tokens whose probability reaches this mass
            (Holtzman et al. 2019); 1.0 is off.
        min_p: Keep tokens at least this fraction as likely as the most likely one; 0.0 is off.
        seed: Seed of this request's own random stream, an unsigned 64-bit integer; ``None``
            draws one, reported in :class:`~rbee_runtime.events.Started`.
        logprobs: Tell with each token how likely the model held it to be, and this many of the
            likeliest in its place, 0 to 20; ``None`` tells nothing. The probabilities are those
            before everything above: see :class:`~rbee_runtime.logprobs.TokenLogprobs`.

    Raises:
        InvalidRequest: A value lies outside its range.
    """

    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _require(0.0 < self.repetition_penalty <= 2.0, "repetition_penalty", "in (0.0, 2.0]")
        for name in ("frequency_penalty", "presence_penalty"):
            _require(-2.0 <= getattr(self, name) <= 2.0, name, "in [-2.0, 2.0]")
        biased = all(-100.0 <= bias <= 100.0 for bias in self.logit_bias.values())
        _require(biased, "logit_bias", "of numbers in [-100.0, 100.0]")
        _require(0.0 <= self.temperature <= 2.0, "temperature", "in [0.0, 2.0]")
        _require(self.top_k >= 0, "top_k", "at least 0")
        _require(0.0 <= self.top_p <= 1.0, "top_p", "in [0.0, 1.0]")
        _require(0.0 <= self.min_p <= 1.0, "min_p", "in [0.0, 1.0]")
        _require(
            self.seed is None or 0 <= self.seed <= U64_MAX, "seed", "an unsigned 64-bit integer"
        )
        asked = 0 if self.logprobs is None else self.logprobs
        _require(0 <= asked <= MOST_ALTERNATIVES, "logprobs", f"in 0..{MOST_ALTERNATIVES}")


GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to generate.

    Attributes:
        request_id: Names the request in :meth:`Engine.cancel` and in logs; unique among live ones.
        prompt: Text (special tokens in it are recognised, and the model's own prefix such as BOS is
            added), or token ids taken as they are.
        max_tokens: Upper bound on new tokens, at least 1; ``None`` for what the context holds.
        sampling: How tokens are drawn.
        stop: Strings that end the completion; the matched one is not part of its text.
        deadline: ``time.monotonic()`` value past which the request fails with ``DeadlineExceeded``;
            ``None`` means never.
        constraint: What the completion is held to; ``None`` for nothing. One that ``max_tokens`` or
            a stop string ends is a beginning of what the constraint admits.
        shown: Special tokens that have their names in the text, as those that mark reasoning.
        prediction: What much of the completion is expected to repeat, such as a text that is to be
            edited: the same completion comes sooner the more of it does.

    Raises:
        InvalidRequest: The prompt is empty, ``max_tokens`` is below 1, or a stop string is empty.
    """

    request_id: str
    prompt: str | Sequence[int]
    max_tokens: int | None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    deadline: float | None = None
    constraint: Constraint | None = None
    prediction: str = ""
    shown: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        _require(len(self.prompt) > 0, "prompt", "not empty")
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "at least 1")
        _require(all(self.stop), "stop", "strings that are not empty")
