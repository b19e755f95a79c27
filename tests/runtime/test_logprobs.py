"""Log probabilities of completions, as a caller of the engine asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.collecting import submit
from support.makers import MakeArtifact, MakeFamily
from support.tiny_llama import load_reference, reference_logits

from rbee_runtime import Completion, Regex, TokenLogprobs, sampling
from rbee_runtime.engine import Engine
from rbee_runtime.errors import InvalidRequest
from rbee_runtime.events import Piece, StopReason
from rbee_runtime.log_softmax import log_softmax
from rbee_runtime.request import GREEDY, Request, SamplingParams

PROMPT = "Once upon a time"
PROMPTS = (PROMPT, "def step(rows):", "你好")
TOLERANCE = 5e-5
"""Natural logarithms. Logits of the tiny models, in other orders of their sums, are this close."""


@pytest.fixture(scope="module")
def engine(tiny_artifact: Path) -> Iterator[Engine]:
    with Engine.load(tiny_artifact, backend="cpu", slots=4) as engine:
        yield engine


def warm(logprobs: int | None, seed: int = 1, **others: Any) -> SamplingParams:
    return SamplingParams(temperature=1.5, seed=seed, logprobs=logprobs, **others)


def expected(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float64]:
    """Return all log probabilities in the place of each token, as ``transformers`` has them."""
    import torch

    logits = torch.tensor(reference_logits(model, [*prompt, *tokens])[len(prompt) - 1 : -1])
    found: NDArray[np.float64] = torch.log_softmax(logits.double(), -1).numpy()
    return found


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "phi", "qwen2-moe"])
def test_they_are_those_of_transformers(
    family: str, make_family: MakeFamily, make_artifact: MakeArtifact
) -> None:
    """Whatever is done to the logits before a token is drawn, and whoever decodes beside."""
    checkpoint = make_family(family)
    bias = dict.fromkeys(range(60, 70), 20.0)
    with Engine.load(make_artifact(checkpoint, "fp32"), backend="cpu", slots=4) as engine:
        completions = [
            one
            for params in (
                SamplingParams(temperature=0.0, logprobs=5),
                warm(20, top_p=0.9),
                warm(3, repetition_penalty=1.5, presence_penalty=1.0, logit_bias=bias),
            )
            for one in engine.complete(PROMPTS, max_tokens=12, sampling=params)
        ]
        encoded = [engine.tokenizer.encode(prompt) for prompt in PROMPTS] * 3
    model = load_reference(checkpoint)
    for prompt, one in zip(encoded, completions, strict=True):
        tokens = [known.token for known in one.logprobs]
        assert len(tokens) == one.finished.completion_tokens
        for known, reference in zip(one.logprobs, expected(model, prompt, tokens), strict=True):
            assert abs(known.logprob - reference[known.token]) < TOLERANCE
            for (token, logprob), wanted in zip(known.top, np.sort(reference)[::-1], strict=False):
                assert abs(logprob - reference[token]) < TOLERANCE
                assert abs(logprob - wanted) < TOLERANCE


@pytest.mark.parametrize("top", [0, 1, 20])
def test_as_many_as_were_asked_for(engine: Engine, top: int) -> None:
    completions = engine.complete(PROMPTS, max_tokens=20, sampling=warm(top))
    for known in (known for one in completions for known in one.logprobs):
        assert len(known.top) == len({token for token, _ in known.top}) == top
        values = [logprob for _, logprob in known.top]
        assert values == sorted(values, reverse=True)
        among = dict(known.top)
        assert among.get(known.token, known.logprob) == known.logprob
        assert known.token in among or all(one >= known.logprob for one in values)


def test_greedy_takes_the_likeliest(engine: Engine) -> None:
    params = SamplingParams(temperature=0.0, logprobs=1)
    for one in engine.complete(PROMPTS, max_tokens=20, sampling=params):
        assert all(known.top == (known[:2],) for known in one.logprobs)


def test_to_ask_changes_no_completion(engine: Engine) -> None:
    for asked in (GREEDY, warm(None), warm(None, top_k=9, frequency_penalty=0.4)):
        free = engine.complete(PROMPTS, max_tokens=20, sampling=asked)
        told = engine.complete(PROMPTS, max_tokens=20, sampling=replace(asked, logprobs=2))
        assert [one.text for one in told] == [one.text for one in free]
        assert all(one.logprobs == () for one in free)
        assert all(one.logprobs for one in told)


def test_beside_those_that_ask_for_nothing(engine: Engine) -> None:
    params = [warm(None), warm(3, 2), GREEDY, warm(1, 3)]
    requests = [Request(f"{n}", PROMPT, 20, one) for n, one in enumerate(params)]
    alone = [known(submit(engine, request).all()) for request in requests]
    together = [submit(engine, request) for request in requests]
    assert [known(collector.all()) for collector in together] == alone
    assert [bool(tokens) for tokens in alone] == [False, True, False, True]


def known(events: Sequence[Any]) -> list[TokenLogprobs]:
    return [one for event in events if isinstance(event, Piece) for one in event.logprobs]


def test_the_pieces_have_what_the_whole_has(engine: Engine) -> None:
    for seed in range(5):
        [whole] = engine.complete(["你好🙂"], max_tokens=40, sampling=warm(2, seed))
        request = Request("pieces", "你好🙂", 40, warm(2, seed))
        text, told = "", list[TokenLogprobs]()
        for event in engine.stream(request):
            if isinstance(event, Piece):
                told += event.logprobs
                assert event.tokens >= len(told)
                text += event.text
                assert all(one.offset < len(text) for one in event.logprobs if event.text)
        assert (text, told) == (whole.text, list(whole.logprobs))
        assert len(told) == whole.finished.completion_tokens


def test_a_mask_is_not_in_them(engine: Engine) -> None:
    """What a constraint leaves may be what the model holds to be all but impossible."""
    params = SamplingParams(temperature=0.0, logprobs=20)
    [free] = engine.complete([PROMPT], max_tokens=1, sampling=params)
    [held] = engine.complete([PROMPT], sampling=params, constraint=Regex("zebra🦓"))
    assert (held.text, held.stop_reason) == ("zebra🦓", StopReason.EOS)
    assert held.logprobs[0].top == free.logprobs[0].top
    assert held.logprobs[0].token not in dict(held.logprobs[0].top)
    assert held.logprobs[0].logprob < held.logprobs[0].top[-1].logprob
    assert len(held.logprobs) == held.finished.completion_tokens


def test_a_stop_string_takes_its_tokens_away(engine: Engine) -> None:
    [free] = engine.complete([PROMPT], max_tokens=30, sampling=warm(1))
    stop = free.text[9:12]
    [cut] = engine.complete([PROMPT], max_tokens=30, sampling=warm(1), stop=(stop,))
    assert cut.stop_reason is StopReason.STOP_SEQUENCE
    at = free.text.index(stop)
    assert list(cut.logprobs) == [one for one in free.logprobs if one.offset < at]


def test_the_end_of_the_text_is_not_among_them(engine: Engine) -> None:
    ends = dict.fromkeys(engine.manifest.eos_token_ids, 100.0)
    [one] = engine.complete([PROMPT], sampling=warm(1, logit_bias=ends))
    assert (one.text, one.logprobs, one.stop_reason) == ("", (), StopReason.EOS)


def test_without_kernels_they_are_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(completions: list[Completion]) -> tuple[list[object], list[float]]:
        tokens = [known for one in completions for known in one.logprobs]
        ids = [(one.token, one.offset, [token for token, _ in one.top]) for one in tokens]
        values = [logprob for one in tokens for _, logprob in (one[:2], *one.top)]
        return list(ids), values

    best = flat(engine.complete(PROMPTS, max_tokens=20, sampling=warm(5)))
    monkeypatch.setattr(sampling, "best_log_softmax", lambda: log_softmax)
    plain = flat(engine.complete(PROMPTS, max_tokens=20, sampling=warm(5)))
    assert plain[0] == best[0]
    np.testing.assert_allclose(plain[1], best[1], rtol=0, atol=1e-5)


def test_too_many_are_refused() -> None:
    for asked in (-1, 21):
        with pytest.raises(InvalidRequest, match=r"logprobs must be in 0\.\.20"):
            SamplingParams(logprobs=asked)
