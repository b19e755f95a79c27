"""What completions are held to: schemas, expressions and calls, and which tokens they allow.

Only what names a constraint is imported here: who is asked for none does not wait for the rest.
"""

from rbee_runtime.constraint.call_form import CallForm
from rbee_runtime.constraint.constraint import (
    AfterReasoning,
    Constraint,
    Function,
    JsonSchema,
    Regex,
    ToolCalls,
)

__all__ = [
    "AfterReasoning",
    "CallForm",
    "Constraint",
    "Function",
    "JsonSchema",
    "Regex",
    "ToolCalls",
]
