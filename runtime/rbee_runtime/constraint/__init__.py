"""What completions are held to: JSON schemas and regular expressions, and which tokens they allow.

Only what names a constraint is imported here: who is asked for none does not wait for the rest.
"""

from rbee_runtime.constraint.constraint import Constraint, JsonSchema, Regex

__all__ = ["Constraint", "JsonSchema", "Regex"]
