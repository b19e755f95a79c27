"""From what ``--model`` names to an artifact directory, by way of an export where one is needed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Final

import structlog

from rbee_runtime.artifact import MANIFEST_NAME, open_artifact
from rbee_runtime.errors import ArtifactError
from rbee_service.threads import in_daemon_thread

_READ_BYTES: Final = 4096
_LONGEST_LINE: Final = 2000


def model_reference(model: Path) -> str:
    """Return the reference that ``model`` will be announced by, before it is loaded.

    It is the artifact's, and of a checkpoint the one that its export will give it. What cannot be
    opened gets one of its name: :func:`resolve_model` and the loader say what is wrong with it.
    """
    try:
        return open_artifact(model).manifest.model_ref
    except (ArtifactError, OSError):
        name = model.resolve().name if model.is_dir() else model.name
        return "file:" + re.sub(r"[^A-Za-z0-9._-]", "-", name.removesuffix(".gguf"))


async def resolve_model(model: Path, cache: Path, *, outlasts: bool = False) -> Path:
    """Return the artifact directory of ``model``.

    A checkpoint is handed to the exporter, which finds it in ``cache`` where it has been exported
    before.

    Args:
        model: An artifact directory, a GGUF file or a safetensors directory.
        cache: Where exported artifacts lie.
        outlasts: An export goes on when this is cancelled, to be found by who asks again.

    Raises:
        ArtifactError: It is none of these, or its export failed.
    """
    if str(model).startswith("hf:"):
        raise ArtifactError(
            f"{model}: a worker downloads nothing; rbee-export --model {model} makes an artifact"
        )
    if not model.exists():
        raise ArtifactError(f"{model}: no such file or directory; check --model")
    if (model / MANIFEST_NAME).is_file():
        return model
    holds = ("*.safetensors", "*.gguf")  # the exporter asks for the file itself of the latter
    if _is_gguf(model) or any(any(model.glob(name)) for name in holds):
        return await _export(model, cache, outlasts=outlasts)
    raise ArtifactError(
        f"{model}: neither an artifact directory (no {MANIFEST_NAME}), nor a GGUF file, nor a "
        "directory with .safetensors files"
    )


def _is_gguf(model: Path) -> bool:
    if model.suffix.lower() == ".gguf":
        return True
    if not model.is_file():
        return False
    try:
        with model.open("rb") as file:  # ollama's have no suffix
            return file.read(4) == b"GGUF"
    except OSError as error:
        raise ArtifactError(f"{model}: cannot be read: {error.strerror or error}") from error


async def _export(model: Path, cache: Path, *, outlasts: bool) -> Path:
    log = structlog.get_logger()
    log.info("Exporting the model, or finding it exported", model=str(model), cache=str(cache))
    # Not one of asyncio's: their end comes with the event loop's.
    exporter = subprocess.Popen(
        [
            sys.executable,
            *("-m", "rbee_export"),
            *("--model", str(model)),
            *("--cache", str(cache)),
            *("--no-verify", "--print-path"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A Ctrl-C in the terminal is for the worker, which ends the exporter itself.
        start_new_session=True,
    )
    try:
        printed, complaint, code = await asyncio.gather(
            in_daemon_thread(partial(_last_line, exporter.stdout), "exporter-output"),
            in_daemon_thread(partial(_told, exporter.stderr), "exporter-log"),
            in_daemon_thread(exporter.wait, "exporter"),
        )
    finally:
        if exporter.returncode is None and outlasts:
            log.info("The export goes on; the next start finds it, or waits for it")
        elif exporter.returncode is None:
            # It is let take back what it has begun, which may be gigabytes.
            with suppress(ProcessLookupError):
                os.killpg(exporter.pid, signal.SIGTERM)
    if code != 0:
        # It is told by this program now, not by that one.
        complaint = complaint.removeprefix("rbee-export: ")
        if code < 0:  # as where memory ran out: what it said last is how far it was
            ended = f"{model}: the exporter was ended by {signal.Signals(-code).name}"
            raise ArtifactError(f"{ended}; it last said: {complaint}" if complaint else ended)
        raise ArtifactError(complaint or f"{model}: the exporter ended with exit code {code}")
    if not printed:
        raise ArtifactError(f"{model}: the exporter named no artifact")
    return Path(printed)


def _last_line(stream: IO[bytes] | None) -> str:
    last = deque(_lines(stream), maxlen=1)
    return last[0] if last else ""


def _told(stream: IO[bytes] | None) -> str:
    log = structlog.get_logger()
    last = ""
    for line in _lines(stream):
        last = line
        log.info("Exporter", said=line)
    return last


def _lines(stream: IO[bytes] | None) -> Iterator[str]:
    """Yield the lines that are not blank; of one redrawn in place, its final state."""
    pending = b""
    while stream is not None and (chunk := os.read(stream.fileno(), _READ_BYTES)):
        *complete, pending = (pending + chunk).split(b"\n")
        pending = pending[-_LONGEST_LINE:]
        for line in complete:
            if text := _final(line):
                yield text
    if text := _final(pending):
        yield text


def _final(line: bytes) -> str:
    return line.decode("utf-8", "replace").strip().rsplit("\r", 1)[-1].strip()
