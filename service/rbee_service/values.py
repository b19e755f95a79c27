"""What the text of a flag or variable may be. A :class:`ValueError` says what it must be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from rbee_service.auth import ApiToken
from rbee_service.sse import SseDialect

_WORKER_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_MODEL_REF: Final = re.compile(r"[A-Za-z0-9._:/-]{1,512}")
_BYTES: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(K|M|G|T)?(?:i?B)?", re.IGNORECASE)
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")
# Room for the longest and for blank space around it; more than that is too long anyway.
_TOKEN_FILE_CHARACTERS: Final = 8192
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def read_token(text: str) -> ApiToken:
    """Return the token that the file of this name holds."""
    try:
        with Path(text).open(encoding="utf-8") as file:
            secret = file.read(_TOKEN_FILE_CHARACTERS)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"cannot read {text}: {reason}") from None
    return token(secret.strip())


def token(text: str) -> ApiToken:
    """Return a secret as a token."""
    if not _TOKEN.fullmatch(text):
        raise ValueError("the token must be 1 to 4096 visible ASCII characters")
    return ApiToken(text)


def worker_id(text: str) -> str:
    """Return a name for a worker."""
    if not _WORKER_ID.fullmatch(text):
        raise ValueError("must be 1 to 256 characters of A-Z a-z 0-9 _ -")
    return text


def model_ref(text: str) -> str | None:
    """Return a reference to a model."""
    if not _MODEL_REF.fullmatch(text) or "../" in text:
        raise ValueError("must be 1 to 512 characters of A-Z a-z 0-9 . _ : / - without ../")
    return text


def backend(text: str) -> Literal["cpu", "cuda", "tensorrt"] | None:
    """Return the name of a backend."""
    match text:
        case "cpu" | "cuda" | "tensorrt":
            return text
    raise ValueError(f"must be cpu, cuda or tensorrt, not {text!r}")


def fallback(text: str) -> Literal["cuda"] | None:
    """Return what to run on instead of TensorRT."""
    match text:
        case "cuda":
            return text
    raise ValueError(f"must be cuda, not {text!r}")


def cache_type(text: str) -> Literal["int8"] | None:
    """Return what the cache is to be kept in."""
    match text:
        case "int8":
            return text
    raise ValueError(f"must be int8, not {text!r}")


def dialect(text: str) -> SseDialect:
    """Return a vocabulary of events."""
    try:
        return SseDialect(text)
    except ValueError:
        raise ValueError(f"must be output or token, not {text!r}") from None


def url(text: str) -> str | None:
    """Return an HTTP URL."""
    rule = f"must be an http:// or https:// URL without user name, not {text!r}"
    try:
        url = urlsplit(text)
        well_formed = url.scheme in {"http", "https"} and url.hostname and url.port != 0
    except ValueError:
        raise ValueError(rule) from None
    if not well_formed or url.username is not None or not text.isprintable() or " " in text:
        raise ValueError(rule)
    return text


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return what reads a whole number in a range."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}, not {text!r}")
        return int(text)

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Return what reads a number of seconds in a range."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
            raise ValueError(f"must be a number of seconds from {low} to {high}, not {text!r}")
        return float(text)

    return parse


def budget(text: str) -> float | int:
    """Return a share of memory, as a float, or bytes, as an int."""
    match = _BYTES.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a share like 0.5 or a size like 800M or 4G, not {text!r}")
    number, unit = float(match[1]), (match[2] or "").upper()
    if not unit:
        if not 0.0 < number <= 1.0:
            raise ValueError(f"must be above 0 and at most 1, or have a unit like 4G, not {text!r}")
        return number
    size = int(number * 2 ** _UNITS[unit])
    if size == 0:
        raise ValueError(f"must be more than nothing, not {text!r}")
    return size
