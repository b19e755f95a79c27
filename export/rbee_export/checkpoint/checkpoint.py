"""What every kind of checkpoint offers, and the function that opens one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol

from rbee_export.checkpoint.config import DecoderConfig
from rbee_export.checkpoint.tensor import Tensor
from rbee_export.cores import each
from rbee_export.errors import CheckpointError

ByteProgress = Callable[[int, int], None]
"""Called with bytes done and bytes in total."""

_CHUNK = 8 << 20


@dataclass(frozen=True, slots=True)
class TokenizerSource:
    """The tokenizer a checkpoint came with.

    Attributes:
        tokenizer_json: Serialised ``tokenizers.Tokenizer``.
        bos_token_id: Beginning-of-text token, where the model has one.
        eos_token_ids: All tokens that end a completion.
        chat_template: Jinja source, where the model has one.
    """

    tokenizer_json: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    chat_template: str | None


class WeightSource(Protocol):
    """Weights by canonical names.

    Attributes:
        name: What they are called in an error.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def tensor(self, name: str) -> Tensor:
        """Return the weight with this canonical name.

        Raises:
            CheckpointError: The checkpoint has no such weight, or one of a wrong shape.
            UnsupportedModel: It is stored in a type this exporter does not read.
        """
        ...


class Checkpoint(WeightSource, Protocol):
    """An opened checkpoint. Weights go by canonical names, listed in :mod:`rbee_export.decoder`.

    Attributes:
        format: How it is stored.
        name: File or directory name, without its path.
        config: Hyper-parameters.
        files: The files that make it up, whose content identifies it.
        quantized: Whether it holds block-quantised matrices.
    """

    @property
    def format(self) -> Literal["gguf", "safetensors"]: ...  # noqa: D102

    @property
    def config(self) -> DecoderConfig: ...  # noqa: D102

    @property
    def files(self) -> Sequence[Path]: ...  # noqa: D102

    @property
    def quantized(self) -> bool: ...  # noqa: D102

    def tokenizer(self) -> TokenizerSource:
        """Return the tokenizer.

        Raises:
            CheckpointError: There is none, or it is damaged.
            UnsupportedModel: It is of a kind this exporter does not read.
        """
        ...


def open_checkpoint(path: Path, name: str | None = None) -> Checkpoint:
    """Open a GGUF file, whatever its name, or a directory of safetensors.

    Args:
        path: Where it is.
        name: What to call a directory; ``None`` for its own name.

    Raises:
        CheckpointError: Nothing is there, or it is damaged.
        UnsupportedModel: It is a model this exporter does not know.
    """
    from rbee_export.checkpoint.gguf_file import GgufCheckpoint
    from rbee_export.checkpoint.safetensors_dir import SafetensorsCheckpoint

    if path.is_dir():
        inside = None if (path / "config.json").exists() else min(path.glob("*.gguf"), default=None)
        if inside is not None:
            raise CheckpointError(f"{path}: holds GGUF; name the file itself, as in {inside}")
        return SafetensorsCheckpoint.open(path, name)
    if path.is_file() and (path.suffix.lower() == ".gguf" or _begins_as_gguf(path)):
        return GgufCheckpoint.open(path)
    if path.is_file() and (path.suffix == ".safetensors" or path.name == "config.json"):
        raise CheckpointError(f"{path}: a file of a model's directory; give that, {path.parent}")
    if path.exists():
        raise CheckpointError(
            f"{path}: neither a GGUF file nor a directory with config.json and *.safetensors"
        )
    raise CheckpointError(
        f"{path}: no such file or directory; --model takes a checkpoint on disk or hf:org/name"
    )


def _begins_as_gguf(file: Path) -> bool:
    """Return whether a file is GGUF by its first bytes; ollama's have no suffix."""
    try:
        with file.open("rb") as stream:
            return stream.read(4) == b"GGUF"
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error


def digest(files: Sequence[Path], progress: ByteProgress | None = None) -> str:
    """Return one sha256 over names and content of ``files``, in order of name."""
    files = sorted(files, key=lambda file: file.name)
    total = sum(file.stat().st_size for file in files)
    done = 0
    found: dict[Path, str] = {}
    turn = Lock()

    def read(file: Path) -> None:
        nonlocal done
        one = hashlib.sha256()
        with file.open("rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK):
                one.update(chunk)
                with turn:
                    done += len(chunk)
                    if progress is not None:
                        progress(done, total)
        found[file] = one.hexdigest()

    each(read, files)
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\0{found[file]}\n".encode())
    return whole.hexdigest()
