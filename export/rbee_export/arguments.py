"""The command line of ``rbee-export``."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta
from pathlib import Path
from typing import Literal, NoReturn, get_args

from rbee_export.options import EXPORTER, TensorRtTarget
from rbee_runtime.artifact import Precision

BAD_ARGUMENTS, FAILED = 2, 3
_REFERENCE = re.compile(r"[A-Za-z0-9._:/-]{1,512}")
_ARCHITECTURE = re.compile(r"SM[0-9]{2,3}")
_NO_ARCHITECTURE = ("NONE",)
_LIMIT = re.compile(r"([0-9]{1,6})(d|[MGT]B?)", re.IGNORECASE | re.ASCII)
_UNITS = {"M": 10**6, "MB": 10**6, "G": 10**9, "GB": 10**9, "T": 10**12, "TB": 10**12}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments: ``command`` (``None`` to export), and those of the command.

    Exits with 2 and one line where they make no sense.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is not None:
        return arguments
    if arguments.model is None:
        parser.error("the following arguments are required: --model")
    if arguments.calibration is not None and not arguments.verify:
        parser.error("argument --calibration: not allowed with argument --no-verify")
    arguments.target = _target(parser, arguments)
    return arguments


def _target(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> Literal["cpu", "cuda"] | TensorRtTarget:
    if arguments.target == "tensorrt":
        if arguments.gpu_arch == _NO_ARCHITECTURE:
            for name in ("max_batch", "max_len"):
                if getattr(arguments, name) is not None:
                    flag = name.replace("_", "-")
                    parser.error(f"argument --{flag}: not allowed with --gpu-arch none")
            return TensorRtTarget((), engines=False)
        return TensorRtTarget(
            arguments.gpu_arch or (), arguments.max_batch or 8, arguments.max_len or 4096
        )
    for name in ("gpu_arch", "max_batch", "max_len"):
        if getattr(arguments, name) is not None:
            parser.error(f"argument --{name.replace('_', '-')}: needs --target tensorrt")
    return "cuda" if arguments.target == "cuda" else "cpu"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("argument command:"):
            message += "; a checkpoint is named by --model"
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rbee-export",
        description="Compile a checkpoint, ahead of time, into an artifact the worker serves.",
    )
    parser.add_argument("--version", action="version", version=EXPORTER)
    commands = parser.add_subparsers(dest="command", title="or look at artifacts")
    _add_inspect(commands.add_parser("inspect", help="print what an artifact is"))
    _add_verify(commands.add_parser("verify", help="check an artifact's files and its fidelity"))
    _add_cache(
        commands.add_parser("cache", help="list what workers have had exported, or remove it")
    )
    parser.add_argument(
        "--model",
        help="a GGUF file, a directory with config.json, a tokenizer and *.safetensors, or "
        "hf:org/name[@revision][:file] to download",
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
        choices=["auto", *get_args(Precision)],
        default="auto",
        help="auto (default): gguf, the file's own blocks, for a quantised GGUF; else int8",
    )
    parser.add_argument(
        "--target",
        choices=["cpu", "cuda", "tensorrt"],
        default="cpu",
        help="what runs the artifact (default: cpu; fp16 and bf16 are for cuda in any case)",
    )
    parser.add_argument(
        "--exporter",
        choices=["auto", "decoder", "optimum"],
        default="auto",
        help="auto (default): our own decoder, or optimum for an architecture it does not cover",
    )
    parser.add_argument(
        "--model-ref",
        type=_model_ref,
        help="the reference the worker announces, e.g. hf:org/name (default: from the file name)",
    )
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not measure how far the artifact's predictions are from the checkpoint's",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="the text to measure that on (default: a built-in one)",
    )
    parser.add_argument(
        "--print-path", action="store_true", help="print the artifact's path on stdout"
    )
    engines = parser.add_argument_group("TensorRT")
    engines.add_argument(
        "--gpu-arch",
        type=_architectures,
        metavar="SM89[,…]",
        help="GPUs to build engines for (default: the one that is here), or none to leave that to "
        "the worker",
    )
    engines.add_argument(
        "--max-batch", type=_count, metavar="N", help="sequences a decode step (default: 8)"
    )
    engines.add_argument(
        "--max-len", type=_count, metavar="N", help="positions of a sequence (default: 4096)"
    )
    return parser


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path, help="directory made by rbee-export")
    parser.add_argument("--json", action="store_true", help="print the manifest")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path, help="directory made by rbee-export")
    parser.add_argument(
        "--model",
        dest="source",
        help="the checkpoint it was made from: measure fidelity anew, not only perplexity",
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="the text (default: the built-in one)"
    )


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory",
        nargs="?",
        type=_directory,
        help="the cache (default: RBEE_ARTIFACT_CACHE, or ~/.cache/rbee/artifacts)",
    )
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument(
        "--prune",
        dest="limit",
        type=_limit,
        metavar="LIMIT",
        help="remove what has not been used for so long (30d), or the longest unused until the "
        "rest takes no more than that (20GB); never what a worker is using",
    )
    limit.add_argument(
        "--clear",
        dest="limit",
        action="store_const",
        const=0,
        help="remove everything that no worker is using",
    )


def _directory(text: str) -> Path:
    # Of one that is not there, nothing to remove would be told of as if all was well.
    directory = Path(text)
    try:
        is_there, why = directory.is_dir(), ""
    except OSError as error:
        is_there, why = False, f": {error.strerror}"
    if not is_there:
        raise argparse.ArgumentTypeError(f"must be a directory that is there, not {text!r}{why}")
    return directory


def _limit(text: str) -> timedelta | int:
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError("must be days, such as 30d, or a size, such as 20GB")
    number, unit = int(match[1]), match[2].upper()
    return timedelta(days=number) if unit == "D" else number * _UNITS[unit]


def _model_ref(text: str) -> str:
    if not _REFERENCE.fullmatch(text) or "../" in text:
        raise argparse.ArgumentTypeError(
            "must be 1-512 characters of A-Z a-z 0-9 . _ : / - without ../"
        )
    return text


def _architectures(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.upper().split(",")))
    if names == _NO_ARCHITECTURE:
        return names
    if not all(map(_ARCHITECTURE.fullmatch, names)):
        raise argparse.ArgumentTypeError("must be names such as SM89, with commas between, or none")
    return names


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1 << 21:
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return int(text)
