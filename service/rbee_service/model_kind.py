"""What tells one kind of model from another, to a worker that may serve either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from rbee_service.bridge import MOST_WAITING
from rbee_service.events import T
from rbee_service.inference import AccountingTranslator
from rbee_service.metered import MakeMeter
from rbee_service.narration import Narrator
from rbee_service.prompt_request import NamedPrompt, PromptJob

EventT = TypeVar("EventT")
EventT_contra = TypeVar("EventT_contra", contravariant=True)


class MakeTranslator(Protocol[EventT_contra, T]):
    """Makes the translator of one inference."""

    def __call__(
        self, *, job_id: str, model: str, narrator: Narrator, vram_bytes: Callable[[], int]
    ) -> AccountingTranslator[EventT_contra, T]:
        """Return it.

        Args:
            job_id: The client's name for the job.
            model: Reference of the model that answers.
            narrator: Voice of this request.
            vram_bytes: Says what the backend holds now, in bytes.
        """


@dataclass(frozen=True, slots=True)
class ModelKind(Generic[EventT, T]):
    """A kind of model.

    Attributes:
        name: With its article.
        actor: Who narrates what is done for a request.
        routes: Where such a model is asked, for those who asked elsewhere.
        translate: Makes of its backend's events those that clients read.
        meter: Counts and times its requests.
        inference: Body of ``/v1/inference``; ``None`` where a prompt is not what it is asked.
        job: Body of ``/v1/jobs``, the same.
        most_waiting: Events of a request that may wait for their reader.
    """

    name: str
    actor: str
    routes: str
    translate: MakeTranslator[EventT, T]
    meter: MakeMeter[EventT]
    inference: type[NamedPrompt] | None = None
    job: type[PromptJob] | None = None
    most_waiting: int = MOST_WAITING
