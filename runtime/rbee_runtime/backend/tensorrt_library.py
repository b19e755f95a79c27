"""Which TensorRT an engine needs, whether it is here, and what it says of its failures."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

from rbee_runtime.artifact import Artifact, Engine
from rbee_runtime.errors import DeviceError, InferenceFailed, OutOfMemory, RuntimeFault

LibraryName = Literal["tensorrt", "tensorrt_rtx"]

_EXTRAS: Mapping[LibraryName, str] = MappingProxyType(
    {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
)
_OUT_OF_MEMORY = ("OutOfMemory", "out of memory", "Out of memory")


class Errors:
    """What TensorRT complained of since somebody last asked."""

    def __init__(self) -> None:
        self._told: list[str] = []

    def add(self, message: str) -> None:
        """Keep a message."""
        self._told.append(message)

    def fault(self, what: str) -> RuntimeFault:
        """Return what to raise for a call that failed, and forget the messages.

        Args:
            what: What failed, e.g. ``the step over 3 tokens``.
        """
        told, self._told = self._told, []
        if any(sign in message for message in told for sign in _OUT_OF_MEMORY):
            return OutOfMemory(f"{what} ran out of memory")
        first = " ".join(told[0].split())[:300] if told else "it does not say why"
        return InferenceFailed(f"{what} failed in TensorRT: {first}")


@dataclass(frozen=True, slots=True)
class TensorRt:
    """An installed TensorRT.

    Attributes:
        name: Its import name.
        module: The imported package.
    """

    name: LibraryName
    module: Any

    @classmethod
    def load(cls, name: LibraryName) -> Self | None:
        """Return the package of this name, or ``None`` where it is not installed.

        Raises:
            DeviceError: It is installed and does not load.
        """
        try:
            return cls(name, importlib.import_module(name))
        except ModuleNotFoundError as error:
            if error.name is not None and error.name.partition(".")[0] == name:
                return None
            raise DeviceError(f"{name} is installed, but cannot be loaded: {error}") from error
        except (ImportError, OSError) as error:
            raise DeviceError(f"{name} is installed, but cannot be loaded: {error}") from error

    @property
    def version(self) -> str:
        """Its version; it runs engines of no other."""
        return str(self.module.__version__)

    def logger(self, errors: Errors) -> Any:
        """Return a logger that keeps errors, and nothing else.

        It derives from a class of the package's, so it can be made only once that is loaded.
        """
        severity = self.module.ILogger.Severity
        kept = (severity.ERROR, severity.INTERNAL_ERROR)

        class Logger(self.module.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, message: str) -> None:
                if severity in kept:
                    errors.add(message)

        return Logger()


class Match(NamedTuple):
    """An engine that runs here, and what runs it."""

    engine: Engine
    library: TensorRt


def match_engine(artifact: Artifact, architecture: str) -> Match:
    """Return the artifact's engine for a GPU, with the library that built it.

    Args:
        artifact: One with engines.
        architecture: The GPU's, e.g. ``SM89``.

    Raises:
        DeviceError: There is no engine for that GPU, or the library is missing or of another
            version. One line names both sides.
    """
    engines, path = artifact.manifest.engines, artifact.path
    own = [engine for engine in engines if engine.architecture == architecture]
    engine = (own or list(engines))[0]
    library = TensorRt.load(engine.library)
    found = f"{engine.library} {library.version}" if library else f"no {engine.library}"
    if not own:
        built = " and ".join(sorted({engine.architecture for engine in engines}))
        raise DeviceError(
            f"{path}: its engine is for {built} with {engine.library} {engine.version}, and here "
            f"are {architecture} and {found}; export it again with --gpu-arch {architecture}"
        )
    if library is None:
        raise DeviceError(
            f"{path}: its engine needs {engine.library} {engine.version}, which is not installed; "
            f"pip install 'onnx-worker-rbee[{_EXTRAS[engine.library]}]'"
        )
    if library.version != engine.version:
        raise DeviceError(
            f"{path}: its engine is of {engine.library} {engine.version}, and {library.version} is "
            f"installed; export it again with this one, or install that one"
        )
    return Match(engine, library)
