"""What much of an answer is expected to repeat, as a client of the OpenAI API says it."""

from __future__ import annotations

from typing import Literal

from rbee_service.openai.messages import Content
from rbee_service.openai.unserved import Part


class Prediction(Part):
    """A text from which tokens of the answer are guessed. The answer is the same without.

    Attributes:
        type: There is one.
        content: The text.
    """

    type: Literal["content"]
    content: Content
