"""Opening what an artifact holds while its weights are read and checked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from rbee_runtime.errors import ArtifactError
from rbee_runtime.status import LoadProgress

if TYPE_CHECKING:
    from rbee_runtime.artifact import AnyArtifact

Opened = TypeVar("Opened")


def open_verified(
    artifact: AnyArtifact,
    open_it: Callable[[], Opened],
    progress: Callable[[LoadProgress], None] | None,
) -> Opened:
    """Return what ``open_it`` opens of an artifact whose files are all as they were written.

    Args:
        artifact: The artifact.
        open_it: Opens its tokenizer and its graph.
        progress: Called as its weights are read, on another thread.

    Raises:
        ArtifactError: A file is damaged, or what ``open_it`` says of it.
        RuntimeFault: What else ``open_it`` raises.
    """
    layers = artifact.manifest.shapes.layers
    reads = threading.Event()

    def report(done: int, total: int) -> None:
        reads.set()
        if progress is not None:
            progress(LoadProgress("loading_to_vram", done * layers // total, layers, done))

    artifact.verify(weights=False)
    # Weights are numbers to whoever reads them, damaged or not: they are checked meanwhile.
    with ThreadPoolExecutor(1, "rbee-reader") as aside:
        reading = aside.submit(artifact.verify, report, weights=True)
        reading.add_done_callback(lambda _: reads.set())
        try:
            # The tokenizer's library keeps the interpreter's lock while it reads a vocabulary:
            # nothing that needs it in order to begin would be done meanwhile.
            reads.wait()
            opened = open_it()
        except ArtifactError:
            # Damage is the reason, where there is any.
            reading.result()
            raise
        reading.result()
    return opened


def report_ready(artifact: AnyArtifact, progress: Callable[[LoadProgress], None] | None) -> None:
    """Say that all of an artifact has been loaded."""
    layers = artifact.manifest.shapes.layers
    if progress is not None:
        progress(LoadProgress("ready", layers, layers, artifact.weight_bytes))
