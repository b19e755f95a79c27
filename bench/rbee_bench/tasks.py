"""What people ask a model for, from texts that come again to texts that never do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rbee_runtime import JsonSchema

_BEES: Final = """\
The honey bee is an insect that lives in large colonies. A colony has one queen, some hundred \
drones and up to sixty thousand workers. Workers gather nectar and pollen, build the comb from \
wax, feed the larvae and guard the entrance. The queen lays up to two thousand eggs a day in early \
summer. Drones do no work; they mate with young queens of other colonies and die. In winter the \
colony forms a cluster around the queen and keeps warm by moving its wing muscles."""

_CODE: Final = """\
def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)


def variance(values):
    centre = mean(values)
    total = 0
    for value in values:
        total += (value - centre) ** 2
    return total / len(values)
"""

_BOOK: Final = JsonSchema(
    {
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 40},
            "author": {
                "type": "object",
                "properties": {
                    "first_name": {"type": "string", "maxLength": 20},
                    "last_name": {"type": "string", "maxLength": 20},
                    "date_of_birth": {"type": "string", "maxLength": 20},
                },
                "required": ["first_name", "last_name", "date_of_birth"],
                "additionalProperties": False,
            },
            "publication_year": {"type": "integer", "minimum": 1000, "maximum": 2100},
            "number_of_pages": {"type": "integer", "minimum": 1, "maximum": 5000},
            "is_available": {"type": "boolean"},
        },
        "required": [
            "title",
            "author",
            "publication_year",
            "number_of_pages",
            "is_available",
        ],
        "additionalProperties": False,
    }
)


@dataclass(frozen=True, slots=True)
class Task:
    """Something to ask.

    Attributes:
        name: In a table.
        question: What the user says.
        held_to: What the answer is held to.
    """

    name: str
    question: str
    held_to: JsonSchema | None = None


TASKS: Final = (
    Task("write a story", "Write a short story about a beekeeper who finds a strange hive."),
    Task("explain", "Explain in a few paragraphs why the sky is blue and sunsets are red."),
    Task("summarise a text", f"Summarize this text in three sentences:\n\n{_BEES}"),
    Task("repeat a text", f"Repeat this text word for word:\n\n{_BEES}"),
    Task(
        "edit code",
        "Rewrite this code so that every function has a docstring. Give the whole code.\n\n"
        f"```python\n{_CODE}```",
    ),
    Task("fill a JSON schema", "Describe a book as JSON.", _BOOK),
)
