"""The embedding model that is measured, in every form an engine wants it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rbee_bench.embedders import OTHERS, EmbedderSpec
from rbee_bench.embedders.embedder import Arithmetic, EmbedderKind
from rbee_bench.subject import Progress, up_to_date
from rbee_export import EmbedderCheckpoint, Options, digest, export_embedder, open_embedder
from rbee_runtime import Tokenizer
from rbee_runtime.artifact import EmbedderArtifact, Precision

_PRECISIONS: tuple[Precision, ...] = ("int8", "fp32")


@dataclass(frozen=True, slots=True)
class EncoderSubject:
    """A directory with an encoder, and where what is made of it goes.

    Attributes:
        directory: As sentence-transformers saves it.
        checkpoint: What is in it.
        content: Its digest.
        artifacts: Directory for artifacts, and for the others' own conversions.
        threads: Threads every engine computes with.
    """

    directory: Path
    checkpoint: EmbedderCheckpoint
    content: str
    artifacts: Path
    threads: int

    @classmethod
    def open(cls, directory: Path, artifacts: Path, threads: int) -> EncoderSubject:
        """Read the directory once, to know artifacts of it from others of the same name.

        Raises:
            ExportError: It holds no encoder that is known here.
        """
        checkpoint = open_embedder(directory)
        return cls(directory, checkpoint, digest(checkpoint.files), artifacts, threads)

    def artifact(self, precision: Precision, progress: Progress) -> EmbedderArtifact:
        """Return the artifact at this precision, exported unless it is there already.

        Raises:
            ExportError: It cannot be exported at this precision.
            OSError: The artifact cannot be written.
        """
        path = self.artifacts / f"{self.checkpoint.name}-{precision}"
        if (known := up_to_date(EmbedderArtifact.open, path, self.content)) is not None:
            return known
        what = f"exporting {precision}"
        progress(what, 0, 0)
        export_embedder(
            self.checkpoint,
            path,
            Options(precision),
            self.content,
            lambda _, done, total: progress(what, done, total),
        )
        return EmbedderArtifact.open(path)

    def specs(self, progress: Progress) -> list[EmbedderSpec]:
        """Describe everything that is timed, the compiled runtime first."""
        ours = [
            self._spec("compiled", "own", one, self.artifact(one, progress).path)
            for one in _PRECISIONS
        ]
        return [*ours, *(self._spec(*other, self.directory) for other in OTHERS)]

    def lengths(self, texts: Sequence[str], progress: Progress) -> list[int]:
        """Return the tokens of each text, special ones included."""
        file = self.artifact("fp32", progress).file("tokenizer")
        tokenizer = Tokenizer.open(file, None, None, None)
        prompt = self.checkpoint.modules.prompt
        return [len(tokenizer.encode(prompt + text)) for text in texts]

    def _spec(
        self, kind: EmbedderKind, arithmetic: Arithmetic, label: str, model: Path
    ) -> EmbedderSpec:
        modules = self.checkpoint.modules
        return EmbedderSpec(
            kind=kind,
            label=label,
            model=model,
            encoder=modules.transformer,
            arithmetic=arithmetic,
            pooling=modules.pooling.kind,
            normalized=modules.pooling.normalized,
            prompt=modules.prompt,
            longest=self.checkpoint.config.context_length,
            threads=self.threads,
            workspace=self.artifacts / ".bench" / f"{self.checkpoint.name}-{self.content[:12]}",
        )
