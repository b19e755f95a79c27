"""The worker's command line: flags first, then the environment, then defaults."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NoReturn, TypeVar

from rbee_runtime.step import MOST_DRAFTED
from rbee_service import __version__
from rbee_service.address import is_loopback
from rbee_service.auth import ApiToken
from rbee_service.sse import SseDialect
from rbee_service.values import (
    backend,
    budget,
    cache_type,
    dialect,
    fallback,
    integer,
    model_ref,
    read_token,
    seconds,
    token,
    url,
    worker_id,
)

PROGRAM: Final = "rbee-worker"
TOKEN_VARIABLE: Final = "LLORCH_API_TOKEN"
LOG_FORMAT_VARIABLE: Final = "LLORCH_LOG_FORMAT"

ValueT = TypeVar("ValueT")


class UsageFault(Exception):
    """The command line cannot be followed.

    Attributes:
        lines: One for each thing that is wrong, naming where it was said and what is allowed.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


@dataclass(frozen=True, slots=True)
class Options:
    """What the worker was asked to be.

    Attributes:
        worker_id: Its name towards the hive.
        model: An artifact directory, a GGUF file or a safetensors directory.
        model_ref: Reference to announce; ``None`` takes the artifact's.
        backend: ``cpu``, ``cuda`` or ``tensorrt``; ``None`` takes the best that works.
        fallback: What to run on where ``tensorrt`` does not work; ``None`` for nothing.
        device: Index of the device.
        slots: Requests served at a time; ``None`` for as many as the memory budget holds, up to 16.
        context_length: Tokens of a request, prompt and completion; ``None`` for the model's, or
            what the budget holds.
        memory_budget: Of the cache: a share of what is free (a float) or bytes (an int).
        cache_type: ``int8`` to keep the cache in 8 bits; ``None`` for what it is in by itself.
        max_queue: Requests that may wait beyond those being served.
        max_prefill_chunk: Prompt tokens that may come between two tokens of running requests.
        draft_tokens: Guesses of what comes next that a step runs along at most.
        host: Address to listen on.
        port: Port to listen on; 0 takes any free one.
        callback_url: Where readiness is reported.
        callback_max_retries: Tries after the first.
        hive_url: Base URL of a hive that takes worker heartbeats.
        queen_url: Base URL of a queen that takes worker heartbeats.
        heartbeat_interval: Seconds between heartbeats.
        sse_dialect: Vocabulary of the events where a request does not name one.
        grace: Seconds that running streams are given to finish after a signal to stop.
        token: Guards the routes, and is shown to the hive; ``None`` for neither.
        token_file: What it was read from; ``None`` if it came from elsewhere.
        log_style: How log lines look.
    """

    worker_id: str
    model: Path
    model_ref: str | None
    backend: Literal["cpu", "cuda", "tensorrt"] | None
    fallback: Literal["cuda"] | None
    device: int
    slots: int | None
    context_length: int | None
    memory_budget: float | int
    cache_type: Literal["int8"] | None
    max_queue: int
    max_prefill_chunk: int
    draft_tokens: int
    host: str
    port: int
    callback_url: str | None
    callback_max_retries: int
    hive_url: str | None
    queen_url: str | None
    heartbeat_interval: float
    sse_dialect: SseDialect
    grace: float
    token: ApiToken | None
    token_file: Path | None
    log_style: Literal["json", "console"]


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read the command line.

    Raises:
        UsageFault: With every fault found.
        SystemExit: ``--help`` or ``--version`` was asked for and answered.
    """
    given, unknown = _parser().parse_known_args(arguments)
    reader = _Reader(vars(given), environment)
    guard = _token(reader)
    open_to_all = guard is None and not reader.faults
    reader.faults += [f"unknown argument: {argument}" for argument in unknown]
    host = reader.take("host", str, "127.0.0.1" if guard is None else "0.0.0.0")
    if open_to_all and not is_loopback(host) and not given.allow_unauthenticated:
        reader.faults.append(
            f"--host {host}: others could use the worker without a token; set {TOKEN_VARIABLE} or "
            "--api-token-file, or say --allow-unauthenticated"
        )
    model = reader.take("model", Path, None)
    if model is None and not reader.failed("model"):
        reader.faults.append(
            "--model: required (an artifact directory, a GGUF file or a safetensors directory)"
        )
    options = Options(
        worker_id=reader.take("worker-id", worker_id, f"worker-{uuid.uuid4().hex[:12]}"),
        model=model or Path(),
        model_ref=reader.take("model-ref", model_ref, None),
        backend=reader.take("backend", backend, None),
        fallback=reader.take("fallback", fallback, None),
        device=reader.take("device", integer(0, 255), 0),
        slots=reader.take("slots", integer(1, 1024), None),
        context_length=reader.take("context-length", integer(2, 10_000_000), None),
        memory_budget=reader.take("memory-budget", budget, 0.5),
        cache_type=reader.take("cache-type", cache_type, None),
        max_queue=reader.take("max-queue", integer(0, 100_000), 64),
        max_prefill_chunk=reader.take("max-prefill-chunk", integer(1, 65536), 256),
        draft_tokens=reader.take("draft-tokens", integer(0, MOST_DRAFTED), MOST_DRAFTED),
        host=host,
        port=reader.take("port", integer(0, 65535), 8085),
        callback_url=reader.take("callback-url", url, None),
        callback_max_retries=reader.take("callback-max-retries", integer(0, 20), 3),
        hive_url=reader.take("hive-url", url, None),
        queen_url=reader.take("queen-url", url, None),
        heartbeat_interval=reader.take("heartbeat-interval", seconds(0.1, 3600), 30.0),
        sse_dialect=reader.take("sse-dialect", dialect, SseDialect.OUTPUT),
        grace=reader.take("grace", seconds(0, 3600), 10.0),
        token=guard,
        token_file=reader.take("api-token-file", Path, None),
        log_style="json" if environment.get(LOG_FORMAT_VARIABLE) == "json" else "console",
    )
    if reader.faults:
        raise UsageFault(reader.faults)
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageFault([message])


class _Help(argparse.HelpFormatter):
    """Shows that a flag needs its value: that it may lack is for :class:`_Reader` to say."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return super()._format_args(action, default_metavar).strip("[]")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Serve a compiled model over HTTP and report to a hive.",
        epilog=f"The bearer token is read from {TOKEN_VARIABLE} or --api-token-file. "
        f"{LOG_FORMAT_VARIABLE}=json makes log lines JSON. A checkpoint is exported into "
        "RBEE_ARTIFACT_CACHE (default: ~/.cache/rbee/artifacts) at its first start, and found "
        "there at every later one; rbee-export cache lists and removes what is there.",
        allow_abbrev=False,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")

    def add(*flags: str, metavar: str, help: str) -> None:
        # Without nargs, argparse would stop at the first flag that lacks its value.
        help += f" [{_variable(flags[0].removeprefix('--'))}]"
        parser.add_argument(*flags, metavar=metavar, help=help, nargs="?", const="")

    add(
        "--model",
        metavar="PATH",
        help="artifact directory, GGUF file or safetensors directory (required)",
    )
    add("--model-ref", metavar="REF", help="reference to announce (default: the artifact's)")
    add("--worker-id", metavar="ID", help="name towards the hive (default: generated)")
    add("--backend", metavar="NAME", help="cpu, cuda or tensorrt (default: the best that works)")
    add("--fallback", metavar="NAME", help="cuda, to run on that where TensorRT does not work")
    add("--device", "--cuda-device", metavar="N", help="device index (default: 0)")
    add("--slots", metavar="N", help="requests served at a time (default: what fits, up to 16)")
    add(
        "--context-length",
        metavar="N",
        help="tokens of a request, prompt and completion (default: the model's, or what fits)",
    )
    add(
        "--memory-budget",
        metavar="M",
        help="memory of the cache: a share of what is free, or a size like 4G (default: 0.5)",
    )
    add(
        "--cache-type",
        metavar="NAME",
        help="int8, to keep keys and values in 8 bits, on the CPU (default: 16 bits there)",
    )
    add("--max-queue", metavar="N", help="requests that may wait beyond the slots (default: 64)")
    add(
        "--max-prefill-chunk",
        metavar="N",
        help="prompt tokens between two tokens of running requests, at most (default: 256)",
    )
    add(
        "--draft-tokens",
        metavar="N",
        help="guesses of what comes next that a step checks at most; 0 for none (default: 16)",
    )
    add("--port", metavar="P", help="port to listen on, 0 for any free one (default: 8085)")
    add(
        "--host",
        metavar="H",
        help="address to listen on (default: 127.0.0.1 without a token, 0.0.0.0 with one)",
    )
    add("--callback-url", metavar="URL", help="where readiness is reported")
    add(
        "--callback-max-retries",
        metavar="N",
        help="tries after the first (default: 3)",
    )
    add("--hive-url", metavar="URL", help="hive that takes worker heartbeats")
    add("--queen-url", metavar="URL", help="queen that takes worker heartbeats")
    add(
        "--heartbeat-interval",
        metavar="SECONDS",
        help="time between heartbeats (default: 30)",
    )
    add("--sse-dialect", metavar="NAME", help="output or token (default: output)")
    add(
        "--grace",
        metavar="SECONDS",
        help="time running streams get to finish after SIGTERM (default: 10)",
    )
    add("--api-token-file", metavar="FILE", help="file that holds the bearer token")
    parser.add_argument(
        "--allow-unauthenticated",
        action="store_true",
        help="listen on an address that others reach although there is no token",
    )
    return parser


class _Reader:
    """Takes values out of flags and environment, and notes what is wrong with them."""

    def __init__(self, flags: Mapping[str, object], environment: Mapping[str, str]) -> None:
        self.faults: list[str] = []
        self._flags = flags
        self._environment = environment
        self._failed: set[str] = set()

    def failed(self, name: str) -> bool:
        """Whether a value was given and not taken."""
        return name in self._failed

    def take(self, name: str, parse: Callable[[str], ValueT], default: ValueT) -> ValueT:
        """Return the parsed value, or the default where there is none or it has a fault."""
        source, text = f"--{name}", self._flags[name.replace("-", "_")]
        if text is None:
            source = _variable(name)
            text = self._environment.get(source) or None
        if text is None:
            return default
        try:
            if not text:
                raise ValueError("needs a value")
            return parse(str(text))
        except ValueError as fault:
            self._failed.add(name)
            self.faults.append(f"{source}: {fault}")
            return default

    def secret(self) -> str | None:
        """Return the token of the environment."""
        return self._environment.get(TOKEN_VARIABLE) or None


def _token(reader: _Reader) -> ApiToken | None:
    read = reader.take("api-token-file", read_token, None)
    if read is not None or reader.failed("api-token-file"):
        return read
    secret = reader.secret()
    try:
        return None if secret is None else token(secret)
    except ValueError as fault:
        reader.faults.append(f"{TOKEN_VARIABLE}: {fault}")
        return None


def _variable(name: str) -> str:
    return "RBEE_" + name.replace("-", "_").upper()
