"""Which TensorRT builds for which GPU.

``tensorrt`` builds for the GPU of the machine it runs on, whatever that is. ``tensorrt_rtx`` has
the same interface, needs no GPU, and builds for the architectures it lists; the kernels of its
engines are finished on the machine that loads them.
"""

from __future__ import annotations

import importlib
import re
import subprocess
from dataclasses import dataclass
from typing import Any, Literal

from rbee_export.errors import ExportError

LibraryName = Literal["tensorrt", "tensorrt_rtx"]

_QUERY = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")


@dataclass(frozen=True, slots=True)
class Library:
    """A TensorRT that was found.

    Attributes:
        name: Its import name.
        module: The imported package.
    """

    name: LibraryName
    module: Any

    @property
    def version(self) -> str:
        """Its version; engines of another one may be refused."""
        return str(self.module.__version__)

    @property
    def ahead_of_time(self) -> bool:
        """Whether the architecture is named, rather than that of the GPU at hand."""
        return self.name == "tensorrt_rtx"

    @property
    def architectures(self) -> tuple[str, ...]:
        """What can be named."""
        names = self.module.ComputeCapability.__members__ if self.ahead_of_time else ()
        return tuple(name for name in names if name.startswith("SM"))


def choose(arch: str | None) -> tuple[Library, str]:
    """Return a library that builds for ``arch``, and the architecture by its usual name.

    Args:
        arch: E.g. ``SM89``, in either case; ``None`` for that of this machine's GPU.

    Raises:
        ExportError: ``arch`` is unknown, this machine has no GPU to go by, or no installed library
            builds for it.
    """
    here = _local()
    wanted = here if arch is None else arch.upper()
    if wanted is None:
        raise ExportError("no NVIDIA GPU here to build for; name one with --gpu-arch, e.g. SM89")
    if not re.fullmatch(r"SM\d{2,3}", wanted):
        raise ExportError(f"{arch}: not a GPU architecture; they are named like SM89")

    native = _load("tensorrt")
    if native is not None and wanted == here:
        return native, wanted
    ahead = _load("tensorrt_rtx")
    if ahead is None:
        extra = "tensorrt" if wanted == here else "tensorrt-rtx"
        raise ExportError(
            f"no TensorRT here builds for {wanted}; pip install 'onnx-worker-rbee[{extra}]'"
        )
    if wanted not in ahead.architectures:
        known = ", ".join(ahead.architectures)
        raise ExportError(
            f"{wanted}: unknown to {ahead.name} {ahead.version}, which builds for {known}; "
            "for others, export on a machine with such a GPU and the extra 'tensorrt'"
        )
    return ahead, wanted


def _load(name: LibraryName) -> Library | None:
    try:
        return Library(name, importlib.import_module(name))
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == name:
            return None
        raise ExportError(f"{name} is installed, but cannot be loaded: {error}") from error
    except (ImportError, OSError) as error:
        raise ExportError(f"{name} is installed, but cannot be loaded: {error}") from error


def _local() -> str | None:
    """Return the architecture of the first GPU the driver lists."""
    try:
        query = subprocess.run(_QUERY, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"\s*(\d+)\.(\d+)\s*$", query.stdout, re.MULTILINE)
    return None if found is None else f"SM{found[1]}{found[2]}"
