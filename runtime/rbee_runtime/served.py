"""A request that is being served, and who listens to it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from rbee_runtime.events import Failed

AnyEvent = TypeVar("AnyEvent")


class Served(Generic[AnyEvent]):
    """A request inside an engine, and where its events go.

    Args:
        request_id: Names it.
        deadline: ``time.monotonic()`` value past which it fails; ``None`` means never.
        sink: Takes its events, on the engine's thread: it must return at once.

    Attributes:
        deaf: The sink failed: nobody is listening any more.
    """

    def __init__(
        self, request_id: str, deadline: float | None, sink: Callable[[AnyEvent | Failed], None]
    ) -> None:
        self.request_id = request_id
        self.deadline = deadline
        self.deaf = False
        self._sink = sink

    def tell(self, event: AnyEvent | Failed) -> None:
        """Pass an event on. A sink that fails harms nobody but its own request."""
        if self.deaf:
            return
        try:
            self._sink(event)
        except Exception:
            self.deaf = True
            logging.getLogger(__name__).exception("The sink of %s failed", self.request_id)
