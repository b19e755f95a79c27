"""The worker's command line: flags first, then the environment, then defaults."""

from __future__ import annotations

import argparse
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NoReturn, TypeVar
from urllib.parse import urlsplit

from rbee_service import __version__
from rbee_service.address import is_loopback
from rbee_service.auth import ApiToken
from rbee_service.sse import SseDialect

PROGRAM: Final = "rbee-worker"
TOKEN_VARIABLE: Final = "LLORCH_API_TOKEN"
LOG_FORMAT_VARIABLE: Final = "LLORCH_LOG_FORMAT"

_WORKER_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_MODEL_REF: Final = re.compile(r"[A-Za-z0-9._:/-]{1,512}")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")

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
        device: Index of the device.
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
        log_style: How log lines look.
    """

    worker_id: str
    model: Path
    model_ref: str | None
    backend: Literal["cpu", "cuda", "tensorrt"] | None
    device: int
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
    log_style: Literal["json", "console"]


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read the command line.

    Raises:
        UsageFault: With every fault found.
        SystemExit: ``--help`` or ``--version`` was asked for and answered.
    """
    given, unknown = _parser().parse_known_args(arguments)
    reader = _Reader(vars(given), environment)
    token = _token(reader)
    open_to_all = token is None and not reader.faults
    reader.faults += [f"unknown argument: {argument}" for argument in unknown]
    host = reader.take("host", str, "127.0.0.1" if token is None else "0.0.0.0")
    if open_to_all and not is_loopback(host) and not given.allow_unauthenticated:
        reader.faults.append(
            f"--host {host}: others could use the worker without a token; set {TOKEN_VARIABLE} or "
            "--api-token-file, or say --allow-unauthenticated"
        )
    model = reader.take("model", Path, None)
    if model is None and not reader.failed("model"):
        reader.faults.append(
            "--model: required (an artifact directory, a .gguf file or a safetensors directory)"
        )
    options = Options(
        worker_id=reader.take("worker-id", _worker_id, f"worker-{uuid.uuid4().hex[:12]}"),
        model=model or Path(),
        model_ref=reader.take("model-ref", _model_ref, None),
        backend=reader.take("backend", _backend, None),
        device=reader.take("device", _integer(0, 255), 0),
        host=host,
        port=reader.take("port", _integer(0, 65535), 8085),
        callback_url=reader.take("callback-url", _url, None),
        callback_max_retries=reader.take("callback-max-retries", _integer(0, 20), 3),
        hive_url=reader.take("hive-url", _url, None),
        queen_url=reader.take("queen-url", _url, None),
        heartbeat_interval=reader.take("heartbeat-interval", _seconds(0.1, 3600), 30.0),
        sse_dialect=reader.take("sse-dialect", _dialect, SseDialect.OUTPUT),
        grace=reader.take("grace", _seconds(0, 3600), 10.0),
        token=token,
        log_style="json" if environment.get(LOG_FORMAT_VARIABLE) == "json" else "console",
    )
    if reader.faults:
        raise UsageFault(reader.faults)
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageFault([message])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Serve a compiled language model over HTTP and report to a hive.",
        epilog=f"The bearer token is read from {TOKEN_VARIABLE} or --api-token-file. "
        f"{LOG_FORMAT_VARIABLE}=json makes log lines JSON.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")

    def add(*flags: str, metavar: str, help: str) -> None:
        # Without nargs, argparse would stop at the first flag that lacks its value.
        help += f" [{_variable(flags[0].removeprefix('--'))}]"
        parser.add_argument(*flags, metavar=metavar, help=help, nargs="?", const="")

    add("--model", metavar="PATH", help="artifact directory, .gguf file or safetensors directory")
    add("--model-ref", metavar="REF", help="reference to announce (default: the artifact's)")
    add("--worker-id", metavar="ID", help="name towards the hive (default: generated)")
    add("--backend", metavar="NAME", help="cpu, cuda or tensorrt (default: the best that works)")
    add("--device", "--cuda-device", metavar="N", help="device index (default: 0)")
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
    source = "--api-token-file"
    secret = reader.take("api-token-file", _read_secret, None)
    if secret is None and not reader.failed("api-token-file"):
        source, secret = TOKEN_VARIABLE, reader.secret()
    if secret is None:
        return None
    if not _TOKEN.fullmatch(secret):
        reader.faults.append(f"{source}: the token must be 1 to 4096 visible ASCII characters")
        return None
    return ApiToken(secret)


def _variable(name: str) -> str:
    return "RBEE_" + name.replace("-", "_").upper()


def _read_secret(text: str) -> str | None:
    try:
        return Path(text).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"cannot read {text}: {reason}") from None


def _worker_id(text: str) -> str:
    if not _WORKER_ID.fullmatch(text):
        raise ValueError("must be 1 to 256 characters of A-Z a-z 0-9 _ -")
    return text


def _model_ref(text: str) -> str | None:
    if not _MODEL_REF.fullmatch(text) or "../" in text:
        raise ValueError("must be 1 to 512 characters of A-Z a-z 0-9 . _ : / - without ../")
    return text


def _backend(text: str) -> Literal["cpu", "cuda", "tensorrt"] | None:
    match text:
        case "cpu" | "cuda" | "tensorrt":
            return text
    raise ValueError(f"must be cpu, cuda or tensorrt, not {text!r}")


def _dialect(text: str) -> SseDialect:
    try:
        return SseDialect(text)
    except ValueError:
        raise ValueError(f"must be output or token, not {text!r}") from None


def _url(text: str) -> str | None:
    rule = f"must be an http:// or https:// URL without user name, not {text!r}"
    try:
        url = urlsplit(text)
        well_formed = url.scheme in {"http", "https"} and url.hostname and url.port != 0
    except ValueError:
        raise ValueError(rule) from None
    if not well_formed or url.username is not None or not text.isprintable() or " " in text:
        raise ValueError(rule)
    return text


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}, not {text!r}")
        return int(text)

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
            raise ValueError(f"must be a number of seconds from {low} to {high}, not {text!r}")
        return float(text)

    return parse
