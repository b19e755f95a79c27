"""Tells people what the worker does, in its log and in the request's stream."""

from __future__ import annotations

import structlog

from rbee_service.events import Narration


class Narrator:
    """The voice of one request.

    A narration never carries the prompt, the generated text or a token of any kind.
    """

    def __init__(self, actor: str, *, job_id: str, correlation_id: str) -> None:
        self._actor = actor
        self._job_id = job_id
        self._correlation_id = correlation_id
        self._log = structlog.get_logger()

    def tell(self, action: str, target: str, *, human: str, cute: str, story: str) -> Narration:
        """Log what happened and return it for the stream.

        Args:
            action: One word, e.g. ``prefill``.
            target: What it happened to.
            human: Plain words.
            cute: The same, lightly.
            story: The same, as dialogue.
        """
        self._log.info(
            human, actor=self._actor, action=action, target=target, cute=cute, story=story
        )
        return Narration(
            actor=self._actor,
            action=action,
            target=target,
            human=human,
            cute=cute,
            story=story,
            correlation_id=self._correlation_id,
            job_id=self._job_id,
        )
