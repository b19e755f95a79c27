"""What a caller asks of the embedder."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_runtime.errors import InvalidRequest

MOST_INPUTS = 2048
"""Inputs of a request at most."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts to embed.

    Attributes:
        request_id: Names the request in :meth:`Embedder.cancel` and in logs; unique among live
            ones.
        inputs: Each a text (the model's prompt and special tokens are added), or token ids taken as
            they are.
        deadline: ``time.monotonic()`` value past which the request fails with ``DeadlineExceeded``;
            ``None`` means never.
        called: What its inputs are called in an error, with their number where there are several.

    Raises:
        InvalidRequest: There is no input, or there are more than 2,048.
    """

    request_id: str
    inputs: tuple[str | tuple[int, ...], ...]
    deadline: float | None = None
    called: str = "input"

    def __post_init__(self) -> None:
        if not self.inputs:
            raise InvalidRequest(self.called, f"{self.called} must not be empty")
        if len(self.inputs) > MOST_INPUTS:
            raise InvalidRequest(
                self.called,
                f"{self.called} has {len(self.inputs)} texts, and a request may have "
                f"{MOST_INPUTS}; send several",
            )
