"""The artifact of a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from rbee_runtime.artifact.directory import Directory
from rbee_runtime.artifact.manifest import Engine, Manifest
from rbee_runtime.artifact.parts import Role
from rbee_runtime.artifact.reading import read_manifest
from rbee_runtime.errors import ArtifactError


class Artifact(Directory[Manifest]):
    """An opened artifact of a language model: the directory and its manifest."""

    __slots__ = ()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the manifest and check that every file it names is there, at its size.

        Raises:
            ArtifactError: No manifest, a newer or invalid one, one of another kind, or a file
                missing or cut short.
        """
        self = cls(path, read_manifest(path, "generate", Manifest))
        once: tuple[Role, ...] = ("graph", "tokenizer")
        if self.manifest.target != "cpu":
            once += ("greedy", "sampler")
        if [entry.role for entry in self.manifest.files].count("half_cache_graph") > 1:
            raise ArtifactError(
                f"{self.path}: the manifest names more than one half_cache_graph file; "
                "export the model again"
            )
        return self.check(*once)

    @property
    def half_cache_graph(self) -> Path | None:
        """The graph whose cache is of 16 bits, for the native kernels alone, where there is one."""
        paths = (self.path / e.path for e in self.manifest.files if e.role == "half_cache_graph")
        return next(paths, None)

    def engine_file(self, engine: Engine) -> Path:
        """Return the path of an engine's file.

        Raises:
            ArtifactError: It is not among the files that were checked.
        """
        for entry in self.manifest.files:
            if entry.role == "engine" and entry.path == engine.path:
                return self.path / entry.path
        raise ArtifactError(f"{self.path}: the manifest names no file of the engine {engine.path}")
