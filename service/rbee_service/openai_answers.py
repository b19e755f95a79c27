"""Completions in the shapes that clients of the OpenAI API read; keys in the order of that API."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_runtime.events import Finished
from rbee_service.events import End, StopReason


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all chunks of an answer have in common.

    Attributes:
        id: Name of the completion.
        created: Unix time in seconds.
        model: Reference of the model.
        chat: Whether it answers a chat, or continues a text.
    """

    id: str
    created: int
    model: str
    chat: bool

    def whole(self, text: str, ended: End, finished: Finished) -> dict[str, object]:
        """Return an answer that is not streamed."""
        choice: dict[str, object] = {"index": 0}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        choice |= {"logprobs": None, "finish_reason": finish_reason(ended)}
        kind = "chat.completion" if self.chat else "text_completion"
        return self._around(kind, [choice]) | {"usage": usage(finished)}

    def first(self) -> dict[str, object] | None:
        """Return the chunk that precedes all text, where there is one."""
        return self._chunk({"role": "assistant", "content": ""}) if self.chat else None

    def piece(self, text: str) -> dict[str, object]:
        """Return a chunk with text."""
        return self._chunk({"content": text}, text)

    def last(self, ended: End) -> dict[str, object]:
        """Return the chunk that says why it ended."""
        return self._chunk({}, "", finish_reason(ended))

    def count(self, finished: Finished) -> dict[str, object]:
        """Return the chunk that counts the tokens."""
        return self._around(self._stream_kind, []) | {"usage": usage(finished)}

    @property
    def _stream_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(
        self, delta: dict[str, str], text: str = "", reason: str | None = None
    ) -> dict[str, object]:
        choice: dict[str, object] = {"index": 0}
        if self.chat:
            choice["delta"] = delta
        else:
            choice["text"] = text
        choice |= {"logprobs": None, "finish_reason": reason}
        return self._around(self._stream_kind, [choice])

    def _around(self, kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def finish_reason(ended: End) -> str:
    """Return OpenAI's word for why a completion ended that was not cancelled."""
    return "length" if ended.stop_reason is StopReason.MAX_TOKENS else "stop"


def usage(finished: Finished) -> dict[str, object]:
    """Return the count of tokens."""
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "total_tokens": finished.prompt_tokens + finished.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finished.reused_tokens},
    }
