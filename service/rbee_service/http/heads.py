"""What the head of a request must be, held more strictly than Sanic does.

Where a proxy and a worker read one head differently, a client can hide a second request in the
first. RFC 9112 names the ambiguities (sections 3, 5 and 6), and each is refused here.
"""

from __future__ import annotations

import re
from typing import Final

from sanic import Request

_LINE: Final = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ (?:/|https?://|\*)[\x21-\x7e]* HTTP/1\.([01])"
)
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_UNREAD: Final = "NONE"


async def check_head(head: bytes) -> None:
    """Let the head of a request pass that has one reading only.

    Args:
        head: Request line and headers, without the blank line.

    Raises:
        ValueError: It has none, or several.
    """
    line, *headers = bytes(head).split(b"\r\n")
    minor = _LINE.fullmatch(line)
    if minor is None:
        raise ValueError("the request line is malformed")
    framed = hosts = 0
    for header in headers:
        parts = _HEADER.fullmatch(header)
        if parts is None:
            raise ValueError("a header is malformed or folded")
        name, value = parts[1].lower(), parts[2].rstrip(b" \t")
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            framed += 1 if _LENGTH.fullmatch(value) else 2
        elif name == b"transfer-encoding":
            framed += 1 if value == b"chunked" and minor[1] == b"1" else 2
    if framed > 1:
        raise ValueError("the length of the body is not plain")
    if hosts > 1 or (hosts == 0 and minor[1] == b"1"):
        raise ValueError("there must be one host")


class HeadRequest(Request):
    """A request that can also stand for one that could not be read."""

    def __init__(self, url_bytes: bytes, *arguments: object, **named: object) -> None:
        # Sanic makes such a one to tell of what went wrong, and would fail again on its target.
        unread = named.get("method") == _UNREAD
        super().__init__(b"*" if unread else url_bytes, *arguments, **named)  # type: ignore[arg-type]

    @property
    def unread(self) -> bool:
        """Whether it stands for one that could not be read."""
        return self.method == _UNREAD
