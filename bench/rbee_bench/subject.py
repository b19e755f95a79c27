"""The model that is measured, in every form an engine wants it in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import rbee_export
from rbee_bench.peers import Kind, Spec
from rbee_export import Options, digest, export, open_checkpoint
from rbee_runtime import Artifact, ArtifactError, Tokenizer
from rbee_runtime.artifact import MANIFEST_NAME, EmbedderManifest, Manifest, Precision

if TYPE_CHECKING:
    from rbee_runtime.backend import CacheType

Progress = Callable[[str, int, int], None]
"""Called with what goes on, steps of it done, and steps in total (0 if unknown)."""

UNTUNED = ", untuned"
"""Ends the label of an engine that has the threads it takes when nobody tells it."""

_LABELS: dict[Kind, str] = {
    "llama.cpp": "llama.cpp",
    "genai": "ONNX Runtime GenAI int4",
    "openvino": "OpenVINO GenAI",
    "vllm": "vLLM",
    "eager": "eager torch fp32",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A GGUF file and where what is made of it goes.

    Attributes:
        gguf: The file.
        content: Its digest.
        artifacts: Directory for artifacts, and for the peers' own conversions.
        threads: Threads every engine computes with.
        cache_type: What the runtime is to keep its cache in as well; ``None`` for what it is in by
            itself alone.
    """

    gguf: Path
    content: str
    artifacts: Path
    threads: int
    cache_type: CacheType | None = None

    @classmethod
    def open(
        cls, gguf: Path, artifacts: Path, threads: int, cache_type: CacheType | None = None
    ) -> Subject:
        """Read the file once, to know artifacts of it from others of the same name."""
        return cls(gguf, digest([gguf]), artifacts, threads, cache_type)

    def artifact(self, precision: Precision, progress: Progress) -> Artifact:
        """Return the artifact at this precision, exported unless it is there already.

        One that an earlier exporter made is made again.

        Raises:
            ExportError: The file cannot be exported at this precision.
            OSError: The artifact cannot be written.
        """
        path = self.artifacts / f"{self.gguf.stem}-{precision}"
        if (known := up_to_date(Artifact.open, path, self.content)) is not None:
            return known
        what = f"exporting {precision}"
        progress(what, 0, 0)
        options = Options(precision)
        export(
            open_checkpoint(self.gguf),
            path,
            options,
            self.content,
            lambda _, done, total: progress(what, done, total),
        )
        return Artifact.open(path)

    def compiled(
        self, precision: Precision, progress: Progress, *, capacity: int = 0, sequences: int = 1
    ) -> Spec:
        """Describe the runtime on the artifact at this precision; see :meth:`artifact`."""
        path = self.artifact(precision, progress).path
        return Spec("compiled", precision, path, capacity, self.threads, self.workspace, sequences)

    def ours(
        self,
        precisions: Sequence[Precision],
        progress: Progress,
        *,
        capacity: int = 0,
        sequences: int = 1,
    ) -> list[Spec]:
        """Describe the runtime at each precision, and with the other cache: :meth:`compiled`."""
        specs = []
        for precision in precisions:
            spec = self.compiled(precision, progress, capacity=capacity, sequences=sequences)
            specs.append(spec)
            if self.cache_type is not None:
                label = f"{precision}, cache {self.cache_type}"
                specs.append(replace(spec, label=label, cache_type=self.cache_type))
        return specs

    def peer(self, kind: Kind, capacity: int, sequences: int = 1) -> Spec:
        """Describe another engine on the file, with room for ``capacity`` positions a sequence."""
        label = _LABELS[kind]
        return Spec(kind, label, self.gguf, capacity, self.threads, self.workspace, sequences)

    def untuned(self, kind: Kind, capacity: int) -> Spec:
        """As :meth:`peer`, but with the threads the engine takes when nobody tells it."""
        label = f"{_LABELS[kind]}{UNTUNED}"
        return Spec(kind, label, self.gguf, capacity, 0, self.workspace)

    def tokenizer(self, progress: Progress) -> Tokenizer:
        """Return the model's tokenizer."""
        artifact = self.artifact("gguf", progress)
        return Tokenizer.open(
            artifact.file("tokenizer"), None, artifact.manifest.bos_token_id, None
        )

    @property
    def workspace(self) -> Path:
        """Where peers keep what they make of the file."""
        return self.artifacts / ".bench" / f"{self.gguf.stem}-{self.content[:12]}"


class _FromSource(Protocol):
    @property
    def manifest(self) -> Manifest | EmbedderManifest: ...


A = TypeVar("A", bound=_FromSource)


def up_to_date(opened: Callable[[Path], A], path: Path, content: str) -> A | None:
    """Return the artifact in ``path`` if this exporter made it of files with this digest.

    Args:
        opened: Opens it.
        path: Its directory.
        content: The digest.
    """
    try:
        artifact = opened(path)
    except ArtifactError:
        return None
    made = (path / MANIFEST_NAME).stat().st_mtime
    same = artifact.manifest.source.sha256 == content
    return artifact if same and made > _exporter_changed() else None


def _exporter_changed() -> float:
    """Return when the exporter's files were last written, in seconds since the epoch."""
    files = Path(rbee_export.__file__).parent.rglob("*.py")
    return max(file.stat().st_mtime for file in files)
