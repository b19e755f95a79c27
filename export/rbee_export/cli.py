"""``rbee-export``: compile a checkpoint into an artifact."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
)

from rbee_export.checkpoint import Checkpoint, digest, open_checkpoint
from rbee_export.errors import ExportError
from rbee_export.export import Options, export, identity
from rbee_runtime.artifact import Artifact
from rbee_runtime.errors import ArtifactError

BAD_ARGUMENTS, FAILED = 2, 3
_REFERENCE = re.compile(r"[A-Za-z0-9._:/-]{1,512}")


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit code: 0 done, 2 bad arguments, 3 the export failed."""
    arguments = _parser().parse_args(argv)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    options = Options(arguments.precision, arguments.model_ref)
    try:
        path = _run(arguments, options, console)
    except ExportError as error:
        console.print(f"rbee-export: {error}", style="red", markup=False)
        return FAILED
    except OSError as error:
        cause = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        console.print(f"rbee-export: {cause}; nothing was written", style="red", markup=False)
        return FAILED
    except MemoryError as error:
        cause = f"out of memory ({error})" if str(error) else "out of memory"
        console.print(f"rbee-export: {cause}; nothing was written", style="red", markup=False)
        return FAILED
    except KeyboardInterrupt:
        console.print("rbee-export: interrupted; nothing was written", markup=False)
        return 130
    if arguments.print_path:
        print(path)
    return 0


def _run(arguments: argparse.Namespace, options: Options, console: Console) -> Path:
    checkpoint = open_checkpoint(arguments.model)
    with _progress(DownloadColumn(), console) as bars:
        task = bars.add_task("reading", total=None)
        content = digest(checkpoint.files, lambda n, of: bars.update(task, completed=n, total=of))
    precision = options.resolve(checkpoint)
    if arguments.cache is not None:
        target = arguments.cache / identity(checkpoint, options, content)[:32]
        if _is_artifact(target):
            return Path(target)
    else:
        stem = checkpoint.name.removesuffix(".gguf")
        target = arguments.out or Path("artifacts") / f"{stem}-{precision}"
    _write(checkpoint, target, options, content, console)
    size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
    console.print(f"{target}  {precision}, {size:.0f} MB", markup=False)
    return Path(target)


def _write(
    checkpoint: Checkpoint, target: Path, options: Options, content: str, console: Console
) -> None:
    with _progress(MofNCompleteColumn(), console) as bars:
        task = bars.add_task("layers", total=checkpoint.config.layers)
        export(checkpoint, target, options, content, lambda n, _: bars.update(task, completed=n))


def _progress(counter: ProgressColumn, console: Console) -> Progress:
    """Return bars that show on a terminal and nowhere else: a log gets the outcome alone."""
    return Progress(
        TextColumn("{task.description:>8}"),
        BarColumn(),
        counter,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _is_artifact(path: Path) -> bool:
    try:
        Artifact.open(path)
    except ArtifactError:
        return False
    return True


def _model_ref(text: str) -> str:
    if not _REFERENCE.fullmatch(text) or "../" in text:
        raise argparse.ArgumentTypeError(
            "must be 1-512 characters of A-Z a-z 0-9 . _ : / - without ../"
        )
    return text


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rbee-export",
        description="Compile a checkpoint, ahead of time, into an artifact the worker serves.",
    )
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        help="a .gguf file, or a directory with config.json, tokenizer.json and *.safetensors",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--out",
        type=Path,
        help="directory to write, replacing an artifact there (default: artifacts/NAME-PRECISION)",
    )
    where.add_argument(
        "--cache",
        type=Path,
        help="write below this directory, named by content and options; reuse what is there",
    )
    parser.add_argument(
        "--precision",
        choices=["auto", "fp32", "int8", "int4", "gguf"],
        default="auto",
        help="auto (default): gguf, the file's own blocks, for a quantised GGUF; else int8",
    )
    parser.add_argument(
        "--model-ref",
        type=_model_ref,
        help="the reference the worker announces, e.g. hf:org/name (default: from the file name)",
    )
    parser.add_argument(
        "--print-path", action="store_true", help="print the artifact's path on stdout"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
