"""Functions that strangers ask to have called: whether they can be, and at what cost."""

from __future__ import annotations

import re
from typing import Final

from rbee_runtime.constraint import JsonSchema, ToolCalls
from rbee_runtime.constraint.extent import Extent
from rbee_runtime.constraint.json_schema import check_schema
from rbee_runtime.errors import InvalidRequest

MOST_FUNCTIONS: Final = 128
"""Of one completion."""

_MOST_SCHEMAS: Final = 4
"""How many schemas as large as one may be those of all functions may come to. Most are far smaller:
a hundred and twenty-eight of twenty members each compile in a tenth of a second.
"""

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")


def check_calls(constraint: ToolCalls) -> None:
    """Let calls pass if all schemas of their arguments can be enforced within bounds.

    Raises:
        InvalidRequest: They cannot, or the functions are none, too many or badly named.
    """
    name, functions = constraint.called, constraint.functions
    if not 1 <= len(functions) <= MOST_FUNCTIONS:
        raise InvalidRequest(name, f"{name} must be 1 to {MOST_FUNCTIONS} functions")
    if not all(_NAME.fullmatch(function.name) for function in functions):
        raise InvalidRequest(name, f"{name}: a function's name must match {_NAME.pattern}")
    if len({function.name for function in functions}) < len(functions):
        raise InvalidRequest(name, f"{name}: two functions have one name")
    total = Extent()
    for function in functions:
        if function.parameters.get("type", "object") != "object":
            message = f"{function.called}: its type must be object"
            raise InvalidRequest(function.called, message)
        total += check_schema(JsonSchema(function.parameters, function.called))
        if total.exceeds(_MOST_SCHEMAS):
            message = f"{name}: the schemas of all functions together are too large"
            raise InvalidRequest(name, message)
