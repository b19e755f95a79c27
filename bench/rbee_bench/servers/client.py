"""One streamed completion over HTTP, with the time of every piece of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, greedily.

    Attributes:
        prompt: A text to continue, or the messages of a chat.
        tokens: Tokens of the answer.
        barred: Token ids that must not come: an answer is to be as long as asked for.
    """

    prompt: str | Sequence[Mapping[str, str]]
    tokens: int
    barred: Sequence[int] = ()

    @property
    def path(self) -> str:
        """The route that takes it."""
        return "/v1/completions" if isinstance(self.prompt, str) else "/v1/chat/completions"

    def body(self, model: str) -> dict[str, Any]:
        """Return the request's JSON."""
        name = "prompt" if isinstance(self.prompt, str) else "messages"
        body: dict[str, Any] = {
            "model": model,
            name: self.prompt,
            "max_tokens": self.tokens,
            "temperature": 0.0,
            "stream": True,
        }
        if self.barred:
            body["logit_bias"] = {str(token): -100.0 for token in self.barred}
        return body


@dataclass(frozen=True, slots=True)
class Answer:
    """What came, and when.

    Attributes:
        text: The completion.
        began: When it was asked for, by ``time.perf_counter``.
        times: When each piece of text was there, by the same clock.
        ended: When the stream ended.
        reason: Why, in the server's words; empty if it did not say.
        fault: What went wrong, in one line; empty if nothing did.
    """

    text: str
    began: float
    times: tuple[float, ...]
    ended: float
    reason: str
    fault: str

    @property
    def first(self) -> float:
        """Seconds to the first piece of text."""
        return self.times[0] - self.began

    @property
    def gaps(self) -> list[float]:
        """Seconds from each piece to the next."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]

    @property
    def seconds(self) -> float:
        """From the question to the end."""
        return self.ended - self.began


async def ask(client: httpx.AsyncClient, model: str, question: Question) -> Answer:
    """Ask and wait for the end. What goes wrong is in the answer, not raised."""
    began = time.perf_counter()
    texts: list[str] = []
    times: list[float] = []
    reason = fault = ""
    try:
        async with client.stream("POST", question.path, json=question.body(model)) as answer:
            if answer.status_code != httpx.codes.OK:
                said = (await answer.aread()).decode(errors="replace")
                fault = f"{answer.status_code}: {' '.join(said.split())[:200]}"
            else:
                async for line in answer.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event = json.loads(line[6:])
                    if "error" in event:
                        fault = str(event["error"])[:200]
                        break
                    for choice in event["choices"]:
                        text = choice.get("text") or choice.get("delta", {}).get("content")
                        if text:
                            times.append(time.perf_counter())
                            texts.append(text)
                        reason = choice.get("finish_reason") or reason
    except (httpx.HTTPError, ValueError, KeyError) as error:
        fault = f"{type(error).__name__}: {error}"
    if not fault and not times:
        fault = "an answer without text"
    return Answer("".join(texts), began, tuple(times), time.perf_counter(), reason, fault)
