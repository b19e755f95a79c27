"""What ``--model`` may name, and where its files then are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rbee_export.checkpoint.checkpoint import ByteProgress
from rbee_export.errors import ExportError

_HUB = re.compile(
    r"hf:(?P<repository>[A-Za-z0-9][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[^:\s]+))?(?::(?P<file>\S.*))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class HubReference:
    """A model on a hub, as in ``hf:org/name@revision:file``.

    Attributes:
        repository: ``org/name``.
        revision: A branch, tag or commit; ``None`` for the main branch.
        file: A GGUF file of the repository, or a word of its name such as ``Q4_K_M``.
    """

    repository: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, reference: str) -> Self | None:
        """Return what ``reference`` names, ``None`` where it is a path.

        Raises:
            ExportError: It begins with ``hf:`` and goes on otherwise than a reference does.
        """
        if not reference.startswith("hf:"):
            return None
        match = _HUB.fullmatch(reference)
        if match is None:
            raise ExportError(
                f"{reference}: not a model's reference; write hf:org/name, hf:org/name@revision "
                "or hf:org/name:file.gguf"
            )
        return cls(match["repository"], match["revision"], match["file"])

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"hf:{self.repository}{revision}"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on this machine.

    Attributes:
        path: A safetensors directory or a GGUF file; for
            :func:`~rbee_export.checkpoint.open_checkpoint`.
        name: What to call it: the repository's last part, or that of the path.
    """

    path: Path
    name: str


def model_reference(reference: str) -> str | None:
    """Return the reference a worker announces, ``hf:org/name``; ``None`` for a path."""
    hub = HubReference.parse(reference)
    return None if hub is None else f"hf:{hub.repository}"


def resolve(
    reference: str,
    *,
    cache: Path | None = None,
    progress: ByteProgress | None = None,
    endpoint: str | None = None,
) -> ModelSource:
    """Return where a model's files are, downloading from a hub what is not here yet.

    From a hub come only the files that an export reads. They go into the cache that other programs
    of the hub share, each once its checksum is right; a download that was cut short goes on where
    it stopped. The environment says whom to ask and as whom: ``HF_ENDPOINT``, ``HF_TOKEN``,
    ``HF_HUB_OFFLINE``, ``HF_HOME``.

    Args:
        reference: A path, or ``hf:org/name[@revision][:file]``, where ``file`` is a GGUF file or a
            word of just one such file's name.
        cache: The hub's cache; ``None`` for the usual one.
        progress: Called with bytes done and bytes in total, those found in the cache included.
        endpoint: Address of the hub; ``None`` for that of the environment.

    Raises:
        ExportError: The reference is none, or what it names cannot be had; a path is not looked at.
    """
    hub = HubReference.parse(reference)
    if hub is None:
        path = Path(reference)
        return ModelSource(path, path.resolve().name)
    from rbee_export.hub import Hub  # takes half a second

    path = Hub.of(endpoint, cache).fetch(hub, progress)
    name = path.name if path.suffix == ".gguf" else hub.repository.partition("/")[2]
    return ModelSource(path, name)
