"""Reads Dockerfiles, as far as ours goes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Stage:
    """A stage: what it is called, what it stands on, and its instructions in order."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, keyword: str) -> list[str]:
        return [value for word, value in self.instructions if word == keyword]


def read_stages(path: Path) -> list[Stage]:
    """Return the stages of a Dockerfile whose every ``FROM`` has a name."""
    stages: list[Stage] = []
    for keyword, value in _instructions(path.read_text(encoding="utf-8")):
        if keyword == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", value).groups()
            stages.append(Stage(name, base, ()))
        else:
            last = stages.pop()
            stages.append(Stage(last.name, last.base, (*last.instructions, (keyword, value))))
    return stages


def chain(stages: list[Stage], name: str) -> list[Stage]:
    """Return a stage and those it stands on, the lowest first."""
    named = {stage.name: stage for stage in stages}
    found: list[Stage] = []
    while name in named:
        found.insert(0, named[name])
        name = named[name].base
    return found


def last_of(stages: list[Stage], keyword: str) -> str:
    """Return the value of the last instruction of a kind, which is the one that holds."""
    return [value for stage in stages for value in stage.all(keyword)][-1]


def exec_form(value: str) -> list[str]:
    """Return the words of a command; a shell form is none and fails."""
    words = json.loads(value)
    assert isinstance(words, list)
    assert all(isinstance(word, str) for word in words)
    return words


def environment(stages: list[Stage]) -> dict[str, str]:
    pairs = [pair for stage in stages for value in stage.all("ENV") for pair in value.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    for line in filter(str.strip, joined.splitlines()):
        keyword, value = line.split(maxsplit=1)
        yield keyword, value


def left_out(rules: str, path: str) -> bool:
    """Whether a .dockerignore keeps a path out of the build: the last rule that fits decides."""
    out = False
    for rule in rules.splitlines():
        if not rule or rule.startswith("#"):
            continue
        parts = [
            "(?:[^/]+/)*" if part == "**" else re.escape(part).replace(r"\*", "[^/]*") + "/"
            for part in rule.removeprefix("!").split("/")
        ]
        # A rule for a directory goes for all that is in it.
        if re.match("".join(parts), path + "/"):
            out = not rule.startswith("!")
    return out
