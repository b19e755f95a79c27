"""``rbee-embed``: the vectors of texts, on standard output or in a file. No server."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from rbee_runtime.embedder import Embedder
from rbee_runtime.program import Parser, guarded, stdin_lines, whole_file


def main(argv: list[str] | None = None) -> int:
    """Run the program.

    Returns:
        The exit code: 0 done, or see :func:`~rbee_runtime.program.guarded`.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    texts: Iterable[str] = arguments.texts
    if texts in ([], ["-"]):
        texts = _lines_of_stdin(parser, asked=bool(texts))

    def work() -> int:
        with contextlib.ExitStack() as stack:
            # First, so that one that cannot be written is found before all the work.
            out = arguments.out and stack.enter_context(whole_file(arguments.out))
            embedder = stack.enter_context(
                Embedder.load(arguments.model, backend=arguments.backend, device=arguments.device)
            )
            _embed(embedder, texts, arguments.prompt_name, out)
        return 0

    return guarded(parser.prog, work)


def _embed(
    embedder: Embedder, texts: Iterable[str], prompt: str | None, out: IO[bytes] | None
) -> None:
    began = time.monotonic()
    count = 0
    if out is None:
        for vector in embedder.embed_each(texts, prompt_name=prompt):
            # Each as few digits as give back the same float32: JSON as it is.
            print(f"[{', '.join(map(str, vector))}]", flush=True)
            count += 1
    else:
        vectors = embedder.embed(list(texts), prompt_name=prompt)
        count = len(vectors)
        # What np.save does, and what it cannot do into a pipe.
        layout = np.lib.format.header_data_from_array_1_0(vectors)
        np.lib.format.write_array_header_1_0(out, layout)
        out.write(vectors.data)
        out.flush()
    seconds = time.monotonic() - began
    print(
        f"{count} text{'' if count == 1 else 's'} in {seconds:.2f} s, {count / seconds:.1f} "
        f"texts/s; vectors of {embedder.dim}",
        file=sys.stderr,
    )


def _lines_of_stdin(parser: argparse.ArgumentParser, *, asked: bool) -> Iterator[str]:
    """Return the lines of standard input, of which the first is there, and the others are read."""
    if sys.stdin is None or (sys.stdin.isatty() and not asked):
        parser.error("give texts, or - to read them from standard input, one in each line")
    lines = _checked(parser, stdin_lines(parser))
    first = next(lines, None)
    if first is None:
        parser.error("give texts: standard input holds none")
    return itertools.chain([first], lines)


def _checked(parser: argparse.ArgumentParser, lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line:
            parser.error(f"line {number} of standard input is empty: give a text in each")
        yield line


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="rbee-embed",
        description="Print the vectors that an embedding model gives texts, a JSON array in each "
        "line, as they are done.",
    )
    parser.add_argument(
        "texts",
        nargs="*",
        metavar="text",
        help="what to embed; - or nothing reads a text from each line of standard input",
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="an artifact directory made by rbee-export"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the vectors there as a NumPy array (.npy) instead",
    )
    parser.add_argument(
        "--prompt-name",
        metavar="NAME",
        help="put the model's prompt of this name before each text, query for instance",
    )
    parser.add_argument("--backend", help="cpu or cuda; default: the best that works here")
    parser.add_argument(
        "--device", type=int, default=0, help="index of the GPU; default: %(default)s"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
