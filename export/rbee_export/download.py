"""One file over HTTP, in as many goes as it takes, and only if it is the right one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx
import tenacity

from rbee_export.errors import CheckpointError

ATTEMPTS = 5
"""Attempts in a row that bring nothing, before giving up."""

PAUSE_SECONDS = 0.25
"""At most, before the second attempt; each later pause may be twice as long."""

_CHUNK = 1 << 20
_BUSY = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Content:
    """What a file must hold.

    Attributes:
        size: Bytes.
        digest: In hexadecimal, the sha256 of its bytes; or, 40 digits long, the name git gives to
            them: the sha1 of ``blob SIZE``, a zero byte and the bytes.
    """

    size: int
    digest: str

    def hasher(self) -> hashlib._Hash:
        """Return what computes :attr:`digest` over the bytes."""
        if len(self.digest) == 40:
            return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        return hashlib.sha256()


@dataclass(frozen=True, slots=True)
class Download:
    """A file to fetch.

    Attributes:
        name: What to call it in an error.
        url: Where from.
        headers: Sent along, though none that authorise to another host that it redirects to.
        content: What it must hold.
        target: Where to; the part that is there yet lies beside it.
    """

    name: str
    url: str
    headers: Mapping[str, str]
    content: Content
    target: Path

    @property
    def partial(self) -> Path:
        """The part that is there."""
        return self.target.with_name(f"{self.target.name}.rbee.incomplete")

    @property
    def remaining(self) -> int:
        """Bytes still to come."""
        if self.target.exists():
            return 0
        have = self.partial.stat().st_size if self.partial.exists() else 0
        return max(self.content.size - have, 0)

    def run(self, client: httpx.Client, progress: Callable[[int], None]) -> None:
        """Fetch what is missing and move the whole into place.

        Args:
            client: What to ask with.
            progress: Called with the bytes there are.

        Raises:
            CheckpointError: The content is another; the file has been removed.
            httpx.HTTPError: It did not come, or not whole; the part that came is kept.
            OSError: It could not be written.
        """
        if self.target.exists():
            progress(self.content.size)
            return
        with self.partial.open("a+b") as file:
            part = _Part(file, self.content, progress)
            part.read_back()
            while part.size < self.content.size:
                for attempt in retrying(is_passing):
                    with attempt:
                        self._stretch(client, part)
        if part.size != self.content.size or part.digest != self.content.digest:
            self.partial.unlink()
            raise CheckpointError(
                f"{self.name}: came with another checksum than the hub says; "
                "it was removed: try again"
            )
        self.partial.rename(self.target)

    def _stretch(self, client: httpx.Client, part: _Part) -> None:
        """Fetch until the end or the next interruption; raise if not a byte came."""
        began = part.size
        # Compressed, neither offset nor size would mean anything.
        headers = {**self.headers, "Accept-Encoding": "identity"}
        if began:
            headers["Range"] = f"bytes={began}-"
        try:
            with client.stream("GET", self.url, headers=headers) as response:
                response.raise_for_status()
                if began and response.status_code != httpx.codes.PARTIAL_CONTENT:
                    part.restart()
                for chunk in response.iter_raw():
                    part.append(chunk)
                    if part.size > self.content.size:
                        return
        except httpx.TransportError:
            if part.size <= began:
                raise
        if part.size == began:
            raise httpx.RemoteProtocolError("the answer is empty")


class _Part:
    """The beginning of a file, and the state of its checksum."""

    def __init__(self, file: BinaryIO, content: Content, progress: Callable[[int], None]) -> None:
        self._file = file
        self._content = content
        self._progress = progress
        self._hasher = content.hasher()
        self.size = 0

    @property
    def digest(self) -> str:
        return self._hasher.hexdigest()

    def read_back(self) -> None:
        """Take in what an earlier run left."""
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            self._count(chunk)
        if self.size > self._content.size:
            self.restart()

    def restart(self) -> None:
        self._file.truncate(0)
        self._hasher = self._content.hasher()
        self.size = 0

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._count(chunk)

    def _count(self, chunk: bytes) -> None:
        self._hasher.update(chunk)
        self.size += len(chunk)
        self._progress(self.size)


def retrying(passing: Callable[[BaseException], bool]) -> tenacity.Retrying:
    """Return what tries again, with growing pauses, after errors that may pass."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(passing),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=PAUSE_SECONDS, max=8),
        reraise=True,
    )


def is_passing(error: BaseException) -> bool:
    """Return whether asking again may help: no connection, or a server that is busy."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _BUSY
    return isinstance(error, httpx.TransportError)
