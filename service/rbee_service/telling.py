"""What is told alike of every inference, whatever its output is."""

from __future__ import annotations

from typing import Any

from rbee_service.events import Failed, InferenceEvent, Started
from rbee_service.narration import Narrator
from rbee_service.timestamps import rfc3339_now


def accepted(narrator: Narrator, job_id: str, model: str) -> list[InferenceEvent[Any]]:
    """Return the events that tell the client its job was accepted.

    Args:
        narrator: Voice of this request.
        job_id: The client's name for the job.
        model: Reference of the model that answers.
    """
    return [
        Started(job_id, model, rfc3339_now()),
        narrator.tell(
            "accept",
            model,
            human="Accepted the job",
            cute="A new job landed in the basket!",
            story='"I have something for you," said the hive. "Leave it to me."',
        ),
    ]


def broken(narrator: Narrator, failed: Failed) -> list[InferenceEvent[Any]]:
    """Return the events that tell the client its job could not be finished."""
    narration = narrator.tell(
        "fail",
        failed.code.value,
        human=f"Failed: {failed.message}",
        cute="Oh no, this one fell off the table",
        story='"I am sorry," said the worker, "I could not finish it."',
    )
    return [narration, failed]


def count_of(number: int, unit: str) -> str:
    """Return a number with its unit, as in ``1 token`` and ``2 tokens``."""
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
