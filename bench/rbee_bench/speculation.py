"""What guesses of coming tokens are worth, by what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rbee_bench.bystanders import Bystanders
from rbee_bench.interleave import counted, interleave
from rbee_bench.overhead import Paired
from rbee_bench.subject import Progress
from rbee_bench.tasks import TASKS, Task
from rbee_runtime import Artifact, Engine, SamplingParams

_SEEDS = range(3)
"""Answers of each task that one turn takes, one after another."""


class UnequalAnswers(Exception):
    """An answer is another one with guesses: they are to change nothing."""


@dataclass(frozen=True, slots=True)
class SpeculationRow(Paired):
    """One task, by a stream without guesses and by one with them.

    Attributes:
        task: Its name.
        tokens: Of the answers of a round.
        drafted: Guesses that were run along, in the last round.
        accepted: Of these, how many came true.
    """

    task: str
    tokens: int
    drafted: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Speculation:
    """What was measured.

    Attributes:
        precision: Of the artifact.
        temperature: At which answers were drawn.
        rows: One for each task.
        bystanders: Share of the processor that other programs had meanwhile.
    """

    precision: str
    temperature: float
    rows: tuple[SpeculationRow, ...]
    bystanders: float


@dataclass(frozen=True, slots=True)
class _Answers:
    texts: tuple[str, ...]
    rate: float
    tokens: int
    drafted: int
    accepted: int


def measure_speculation(
    artifact: Artifact, tokens: int, rounds: int, temperature: float, progress: Progress
) -> Speculation:
    """Answer the same questions with guesses and without, by turns, one at a time.

    Raises:
        UnequalAnswers: An answer differs.
    """
    turns = len(TASKS) * 2 * (rounds + 1)
    turn = counted(progress, turns)
    progress("starting", 0, turns)
    opened = partial(Engine.load, artifact.path, slots=1, context_length=_context(artifact, tokens))
    with opened() as guessing, opened(draft_tokens=0) as plain:
        bystanders = Bystanders()
        rows = []
        for task in TASKS:
            answers = partial(_answers, task=task, tokens=tokens, temperature=temperature)
            each = partial(answers, plain), partial(answers, guessing)
            rows.append(_row(task, *each, rounds, turn))
        share = bystanders.share()
    return Speculation(artifact.manifest.precision, temperature, tuple(rows), share)


def _row(
    task: Task,
    plain: Callable[[], _Answers],
    guessing: Callable[[], _Answers],
    rounds: int,
    turn: Callable[[str], None],
) -> SpeculationRow:
    without, under = interleave(
        {f"{task.name}, step by step": plain, f"{task.name}, guessing": guessing}, rounds, turn
    ).values()
    if any(one.texts != other.texts for one, other in zip(without, under, strict=True)):
        raise UnequalAnswers(f"{task.name}: the answers differ with guesses")
    last = under[-1]
    return SpeculationRow(
        tuple(answers.rate for answers in without),
        tuple(answers.rate for answers in under),
        task.name,
        last.tokens,
        last.drafted,
        last.accepted,
    )


def _answers(engine: Engine, *, task: Task, tokens: int, temperature: float) -> _Answers:
    """Answer a task once for each seed, one after another."""
    prompt = _prompt(engine, task.question)
    completions = [
        completion
        for seed in _SEEDS
        for completion in engine.complete(
            [prompt],
            max_tokens=tokens,
            sampling=SamplingParams(temperature=temperature, top_p=0.95, seed=seed),
            constraint=task.held_to,
        )
    ]
    ends = [completion.finished for completion in completions]
    seconds = sum(end.decode_seconds for end in ends)
    return _Answers(
        tuple(completion.text for completion in completions),
        sum(max(0, end.completion_tokens - 1) for end in ends) / max(seconds, 1e-9),
        sum(end.completion_tokens for end in ends),
        sum(end.drafted_tokens for end in ends),
        sum(end.accepted_tokens for end in ends),
    )


def _prompt(engine: Engine, question: str) -> str:
    if engine.tokenizer.chat_template is None:
        return question
    return engine.tokenizer.render_chat([{"role": "user", "content": question}])


def _context(artifact: Artifact, tokens: int) -> int:
    """Return room for the longest question and its answer, as far as the model has it."""
    return min(artifact.manifest.shapes.context_length, 1024 + tokens)
