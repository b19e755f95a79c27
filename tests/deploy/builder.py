"""Builds what a Dockerfile describes, without Docker."""

from __future__ import annotations

import os
import shlex
import shutil
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from dockerfile import Stage, left_out
from image import Image, Mount

_FOR_DOCKER = {"ENTRYPOINT", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"}
_CHANGES_FILES = {"COPY", "RUN", "WORKDIR"}
_LIMIT_SECONDS = 300.0


class Failed(Exception):
    """A step ended with an error; the message is what it wrote."""


def copy_context(source: Path, rules: str, target: Path) -> None:
    """Copy what a ``.dockerignore`` leaves; of what is left out, no rule may readmit a part."""

    def ignored(directory: str, names: list[str]) -> set[str]:
        inside = Path(directory).relative_to(source)
        return {name for name in names if left_out(rules, (inside / name).as_posix())}

    shutil.copytree(source, target, symlinks=True, ignore=ignored)


@dataclass
class Builder:
    """Runs the instructions of stages, each stage once.

    Attributes:
        stages: All of a Dockerfile.
        context: What ``COPY`` copies from.
        base: The files of the one image that comes from outside.
        work: Where the files of the stages are put.
        arguments: Values of ``ARG``.
        mounts: What ``RUN`` sees besides.
        variables: What the environment of ``RUN`` has besides.
    """

    stages: Sequence[Stage]
    context: Path
    base: Path
    work: Path
    arguments: Mapping[str, str]
    mounts: Sequence[Mount] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    _built: dict[str, Image] = field(default_factory=dict)

    def build(self, name: str) -> Image:
        """Return the image of a stage.

        Raises:
            Failed: A ``RUN`` did.
            ValueError: An instruction is not known here.
        """
        if name not in self._built:
            self._built[name] = self._follow(next(one for one in self.stages if one.name == name))
        return self._built[name]

    def _follow(self, stage: Stage) -> Image:
        from_outside = all(one.name != stage.base for one in self.stages)
        image = Image(self.base) if from_outside else self.build(stage.base)
        if _CHANGES_FILES & {keyword for keyword, _ in stage.instructions}:
            root = self.work / stage.name
            # Links, as a second name costs nothing: steps add files, and change none of the base's.
            shutil.copytree(image.root, root, symlinks=True, copy_function=os.link)
            image = replace(image, root=root)
        arguments: dict[str, str] = {}
        for keyword, value in stage.instructions:
            match keyword:
                case "ARG":
                    name, _, default = value.partition("=")
                    arguments[name] = self.arguments.get(name, default)
                case "ENV":
                    image = replace(image, environment=_extended(image.environment, value))
                case "WORKDIR":
                    (image.root / value.lstrip("/")).mkdir(parents=True, exist_ok=True)
                    image = replace(image, directory=value)
                case "USER":
                    user, group = map(int, value.split(":"))
                    image = replace(image, user=(user, group))
                case "COPY":
                    self._copy(image, shlex.split(value))
                case "RUN":
                    self._run(image, value, arguments)
                case _ if keyword not in _FOR_DOCKER:
                    raise ValueError(f"{keyword} is not known here")
        return image

    def _copy(self, image: Image, words: list[str]) -> None:
        *sources, target = words
        source_root, copy = self.context, shutil.copy2
        if sources[0].startswith("--from="):
            source_root, copy = self.build(sources.pop(0).removeprefix("--from=")).root, os.link
        into = image.root / str(PurePosixPath(image.directory, target)).lstrip("/")
        for source in (source_root / one.lstrip("/") for one in sources):
            if source.is_dir():
                shutil.copytree(source, into, symlinks=True, copy_function=copy, dirs_exist_ok=True)
            else:
                shutil.copy2(source, into / source.name if target.endswith("/") else into)

    def _run(self, image: Image, command: str, arguments: Mapping[str, str]) -> None:
        code, said = image.run(
            ["/bin/sh", "-c", command],
            self.mounts,
            {**arguments, **self.variables},
            writable=True,
            limit=_LIMIT_SECONDS,
        )
        if code:
            raise Failed(f"RUN {command}\n{said}")


def _extended(environment: Mapping[str, str], value: str) -> dict[str, str]:
    pairs = (word.split("=", 1) for word in shlex.split(value))
    return dict(environment) | {
        name: string.Template(text).safe_substitute(environment) for name, text in pairs
    }
