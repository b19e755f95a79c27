"""What goes wrong between here and a model hub, in one line each."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import httpx
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import logging as hub_logging

from rbee_export.download import is_passing
from rbee_export.errors import ExportError

_LONGEST = 120


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the library from writing to the terminal in this block."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


@contextlib.contextmanager
def explained(source: str, endpoint: str) -> Iterator[None]:
    """Turn what the network and the library raise in this block into :class:`ExportError`.

    Args:
        source: What to call the model.
        endpoint: The hub's address.

    Raises:
        ExportError: One line that names the cause and what to do.
        OSError: The disk failed.
    """
    try:
        yield
    except HFValidationError as error:
        raise ExportError(f"{source}: not the name of a repository") from error
    except OSError as error:
        # The library's exceptions, and those of the HTTP client of its older versions, are
        # OSErrors too, without a number.
        if error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
            raise
        raise ExportError(f"{source}: {_meaning(endpoint, source, error)}") from error
    except httpx.HTTPError as error:
        raise ExportError(f"{source}: {_meaning(endpoint, source, error)}") from error


def is_passing_at_hub(error: BaseException) -> bool:
    """Return whether asking the library again may help."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    response = getattr(error, "response", None)
    if response is not None:
        return bool(response.status_code >= 500)
    # Where it finds nothing in the cache and the hub did not answer.
    if isinstance(error, LocalEntryNotFoundError):
        return True
    return is_passing(error) or (isinstance(error, OSError) and error.errno is None)


def _meaning(endpoint: str, source: str, error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is None and isinstance(error.__cause__, HfHubHTTPError):
        response = error.__cause__.response
    if response is not None:
        return _refusal(endpoint, source, response)
    return (
        f"{endpoint} does not answer as it should ({_reason(error)}); try again, what has come is "
        "kept; or set HF_HUB_OFFLINE=1 to use what is in the cache"
    )


def _refusal(endpoint: str, source: str, response: Any) -> str:
    """Say what an answer means that is no success."""
    status, headers = response.status_code, response.headers
    said = str(headers.get("x-error-message", ""))
    match headers.get("x-error-code", ""):
        case "GatedRepo":
            page = source.removeprefix("hf:").partition("@")[0]
            return (
                f"its authors ask for consent; give it at {endpoint}/{page} and set HF_TOKEN to a "
                "token of yours"
            )
        case "RevisionNotFound":
            return "the repository has no such revision; check what follows the @"
        case "EntryNotFound":
            return "a file of the repository is gone from the hub; try again"
    if status == 403 or said.startswith("Invalid credentials"):
        return "the hub refuses the token; set HF_TOKEN to one that may read this repository"
    if status in (401, 404):
        return (
            f"no such repository at {endpoint}, or a private one; check its name, or set HF_TOKEN"
        )
    return f"{endpoint} answers with status {status}; try again later"


def _reason(error: BaseException) -> str:
    """Return the innermost cause in a few words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        error, cause = cause, cause.__cause__ or cause.__context__
    return " ".join(str(error).split())[:_LONGEST] or type(error).__name__
