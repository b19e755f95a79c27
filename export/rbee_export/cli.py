"""``rbee-export``: compile a checkpoint into an artifact, and look at artifacts."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, RenderableType

from rbee_export.arguments import FAILED, parse
from rbee_export.artifact_cache import manage
from rbee_export.checkpoint import Checkpoint, open_checkpoint
from rbee_export.checkpoint.embedder_dir import EmbedderCheckpoint, is_embedder, open_embedder
from rbee_export.checkpoint.reranker_dir import RerankerCheckpoint, is_reranker, open_reranker
from rbee_export.checkpoint.safetensors_dir import model_files
from rbee_export.embedder import export_embedder
from rbee_export.errors import BeingWritten, ExportError, UnsupportedModel
from rbee_export.export import export
from rbee_export.optimum_path import INSTALL, is_installed
from rbee_export.options import Options, identity
from rbee_export.report import describe, fidelity_table, printable
from rbee_export.reranker import export_reranker
from rbee_export.source import ModelSource, model_reference, resolve
from rbee_export.stages import Stages
from rbee_export.staging import wait_until_written
from rbee_export.stopping import Stopped, stoppable
from rbee_export.text_compiler import text_precision
from rbee_export.traced import export_traced
from rbee_export.verification import digest_shown, sentences, text_of, verify
from rbee_runtime.artifact import (
    EmbedderManifest,
    Manifest,
    RerankerManifest,
    open_artifact,
)
from rbee_runtime.errors import ArtifactError
from rbee_runtime.units import human_size

_WIDE = 1000
"""Columns where nobody knows how many there are: what reads a pipe wants its lines whole."""


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit code.

    Returns:
        0 done, 2 bad arguments, 3 it failed, 128 and a signal's number where that ended it.
    """
    arguments = parse(argv)
    console = _console(stderr=True)
    programs = {None: _export, "inspect": _inspect, "verify": verify, "cache": _cache}
    written = "; nothing was written" if arguments.command is None else ""
    try:
        with stoppable():
            programs[arguments.command](arguments, console)
    except (ExportError, ArtifactError) as error:
        cause = str(error)
    except OSError as error:
        cause = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        cause += written
    except MemoryError as error:
        cause = (f"out of memory ({error})" if str(error) else "out of memory") + written
    except (KeyboardInterrupt, Stopped) as stop:
        console.print(f"rbee-export: interrupted{written}")
        return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
    else:
        return 0
    console.print(f"rbee-export: {printable(cause)}", style="red")
    return FAILED


def _export(arguments: argparse.Namespace, console: Console) -> None:
    options = Options(
        arguments.precision,
        arguments.model_ref or model_reference(arguments.model),
        arguments.target,
    )
    with Stages(console) as stages:
        source = resolve(
            arguments.model, progress=lambda done, total: stages.show("download", done, total)
        )
    checkpoint = _open(source, arguments.exporter, console)
    files: Sequence[Path]
    if isinstance(checkpoint, Path):
        files, how = model_files(checkpoint), "optimum"
    elif isinstance(checkpoint, EmbedderCheckpoint):
        what = "rerankers" if isinstance(checkpoint, RerankerCheckpoint) else "embedding models"
        files, how = checkpoint.files, text_precision(checkpoint, options, what)
    else:
        files, how = checkpoint.files, options.resolve(checkpoint)
        note = options.note(checkpoint)
        if note is not None:
            console.print(f"rbee-export: {note}")
    text, texts = None, None
    if arguments.verify and isinstance(checkpoint, EmbedderCheckpoint):
        texts = sentences(arguments.calibration)
    elif arguments.verify:
        text = text_of(arguments.calibration)
    content = digest_shown(files, console)
    kind = "tensorrt-" if options.tensorrt else "cuda-" if options.target == "cuda" else ""
    target = arguments.out or Path("artifacts") / (
        f"{source.name.removesuffix('.gguf')}-{kind}{how}"
    )
    if arguments.cache is not None:
        target = arguments.cache / identity(how, options, content)[:32]

    def compile_it() -> None:
        manifest: Manifest | EmbedderManifest | RerankerManifest
        notes: tuple[str, ...] = ()
        with Stages(console) as stages:
            if isinstance(checkpoint, Path):
                manifest, notes = export_traced(source, target, options, content, stages.show)
            elif isinstance(checkpoint, RerankerCheckpoint):
                show = stages.show
                manifest = export_reranker(checkpoint, target, options, content, show, texts=texts)
            elif isinstance(checkpoint, EmbedderCheckpoint):
                show = stages.show
                manifest = export_embedder(checkpoint, target, options, content, show, texts=texts)
            else:
                manifest = export(checkpoint, target, options, content, stages.show, text=text)
        for note in notes:
            console.print(f"rbee-export: {printable(note)}")
        total = sum(entry.size for entry in manifest.files)
        console.print(f"{target}  {how}, {human_size(total)}")
        if manifest.fidelity is not None:
            console.print(fidelity_table(manifest.fidelity))

    if arguments.cache is None:
        compile_it()
    elif not _made(target, compile_it, console):
        console.print(f"{target}  {how}, exported before")
    if arguments.print_path:
        _write(lambda: print(target, flush=True))


def _made(target: Path, make: Callable[[], None], console: Console) -> bool:
    """Make an artifact unless it is there; return whether it was made here.

    Workers that are started together on one checkpoint share what the first of them exports.
    """
    while not _is_artifact(target):
        try:
            make()
        except BeingWritten:
            console.print(f"rbee-export: {target}: waiting for another export, which is writing it")
            wait_until_written(target)
        else:
            return True
    with contextlib.suppress(OSError):  # a cache that may only be read is never pruned
        os.utime(target)
    return False


def _open(
    source: ModelSource, exporter: str, console: Console
) -> Checkpoint | EmbedderCheckpoint | Path:
    """Return an opened checkpoint, or the directory of one that is left to optimum."""
    ranks = source.path.is_dir() and is_reranker(source.path)
    if ranks or (source.path.is_dir() and is_embedder(source.path)):
        if exporter == "optimum":
            what = "a reranker" if ranks else "an embedding model"
            raise ExportError(f"{source.path}: is {what}; optimum exports language models only")
        open_it = open_reranker if ranks else open_embedder
        return open_it(source.path, source.name)
    if exporter == "optimum":
        return source.path
    try:
        return open_checkpoint(source.path, source.name)
    except UnsupportedModel as error:
        if exporter == "decoder" or not source.path.is_dir():
            raise
        if not is_installed():
            raise UnsupportedModel(f"{error}; optimum may know it: {INSTALL}") from error
        console.print(f"rbee-export: {error}; trying optimum")
        return source.path


def _inspect(arguments: argparse.Namespace, _: Console) -> None:
    artifact = open_artifact(arguments.artifact)
    told = artifact.manifest.model_dump_json(indent=2) if arguments.json else describe(artifact)
    _print(told)


def _cache(arguments: argparse.Namespace, console: Console) -> None:
    told = manage(arguments, console)
    if told is not None:
        _print(told)


def _print(told: RenderableType) -> None:
    # Rich ends the program in silence where the reader has left.
    _write(lambda: _console().print(told))


def _write(to_stdout: Callable[[], None]) -> None:
    """Write to standard output.

    Raises:
        ExportError: It cannot be written.
    """
    try:
        to_stdout()
    except OSError as error:
        # What could not be written would be tried again at the end, and complained of by Python.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise ExportError(f"standard output: {error.strerror}") from error


def _console(*, stderr: bool = False) -> Console:
    """Return a console that shows text as it is: much of it was written by strangers."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


def _is_artifact(path: Path) -> bool:
    try:
        open_artifact(path)
    except ArtifactError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
