"""A client's connection on which a completion was asked for."""

from __future__ import annotations

import json
import socket
from typing import Any

from rbee_bench.faults.case import Broken

_PATIENCE_SECONDS = 10.0


def job(tokens: int = 400, prompt: str = "once upon a time") -> dict[str, Any]:
    """Return the body of a request for so many tokens."""
    return {"job_id": "j", "prompt": prompt, "max_tokens": tokens, "temperature": 0.0}


class Stream:
    """The answer to a request, read as far as a case needs it.

    Args:
        port: Where the worker listens.
        body: Of the request; see :func:`job`.
    """

    def __init__(self, port: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        head = f"POST /v1/inference HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        self._socket = socket.create_connection(("127.0.0.1", port), _PATIENCE_SECONDS)
        self._socket.sendall(head.encode() + content)
        self._read = b""

    def until(self, needle: bytes) -> None:
        """Read until ``needle`` has come.

        Raises:
            Broken: The stream was closed before.
        """
        while needle not in self._read:
            piece = self._socket.recv(65536)
            if not piece:
                raise Broken(f"closed a stream before {needle!r}: {self._read[-200:]!r}")
            self._read += piece

    def must_end(self, needle: bytes) -> None:
        """Read to the end, which must be ``[DONE]`` after an event with ``needle`` in it."""
        self.until(b"data: [DONE]\n\n")
        last = self._read.split(b"\n\n")[-3]
        if needle not in last:
            raise Broken(f"ended a stream with {last!r}")

    def leave(self) -> None:
        """Go away."""
        self._socket.close()
