"""What a model thinks before it answers: how it is marked, and told from the answer."""

from rbee_runtime.reasoning.form import SWITCHES, Reasoning, ReasoningForm, Stage
from rbee_runtime.reasoning.reader import ReasoningReader

__all__ = ["SWITCHES", "Reasoning", "ReasoningForm", "ReasoningReader", "Stage"]
