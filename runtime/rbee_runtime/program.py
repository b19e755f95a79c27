"""What the programs of this package have in common: arguments, exit codes, one line for a fault."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from rbee_runtime.errors import (
    ArtifactError,
    DeviceError,
    InvalidRequest,
    InvalidSetting,
    RuntimeFault,
)

BAD_ARGUMENTS, BAD_ARTIFACT, BAD_DEVICE, FAILED, INTERRUPTED = 2, 3, 5, 1, 130


def guarded(name: str, work: Callable[[], int]) -> int:
    """Do a program's work, and say in one line why it failed, if it did.

    Args:
        name: The program's.
        work: Returns its exit code.

    Returns:
        The exit code: 1 the work failed or its outcome cannot be written, 2 bad arguments, 3 the
        artifact cannot be loaded, 5 the device is not usable, 130 interrupted; or that of ``work``.
    """
    try:
        return work()
    except (InvalidRequest, InvalidSetting) as error:
        return _complain(name, error, BAD_ARGUMENTS)
    except ArtifactError as error:
        return _complain(name, error, BAD_ARTIFACT)
    except DeviceError as error:
        return _complain(name, error, BAD_DEVICE)
    except RuntimeFault as error:
        return _complain(name, error, FAILED)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _stop_writing()  # whoever read the answer has left; there is nobody to tell
        return 0
    except OSError as error:
        if error.filename is None:
            _stop_writing()
        return _complain(name, f"{error.filename or 'standard output'}: {error.strerror}", FAILED)


def read_stdin(parser: argparse.ArgumentParser) -> str:
    """Return what standard input holds; end the program where it cannot be read."""
    return "\n".join(stdin_lines(parser))


def stdin_lines(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the lines of standard input; end the program where it cannot be read."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="strict")  # where no locale is set, anything would be read
    try:
        for line in sys.stdin:
            yield line.removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        parser.error(f"standard input cannot be read: {why}")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes the place of ``path`` when the block ends well, and else leaves it.

    What is there and no regular file, a pipe for instance, is written to as it is.

    Raises:
        OSError: It cannot be written; its file name is ``path``.
    """
    special = path.exists() and not path.is_file()
    target = Path(os.path.realpath(path))
    partial = path if special else target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        if not special:
            partial.replace(target)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        if not special:
            partial.unlink(missing_ok=True)


def _complain(name: str, error: RuntimeFault | str, code: int) -> int:
    print(f"{name}: {error}", file=sys.stderr)
    return code


def _stop_writing() -> None:
    # What could not be written would be tried again at the end, and complained of by Python.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and knows ``--version``."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.add_argument(
            "--version", action=_Version, help="show program's version number and exit"
        )

    def error(self, message: str) -> NoReturn:
        """End the program with a line."""
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Version(argparse.Action):
    """Looks the version up only when somebody asks for it."""

    def __init__(self, **named: Any) -> None:
        super().__init__(nargs=0, **named)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("onnx-worker-rbee")
        except PackageNotFoundError:
            found = "of a checkout"  # run from there, without having been installed
        print(f"{parser.prog} {found}")
        parser.exit()
