"""A hive that is not always well: a real HTTP server that answers as it is told, and remembers."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

READY, BEAT, HEALTH_BEAT = "/v1/workers/ready", "/v1/worker-heartbeat", "/v1/heartbeat"
"""Paths that a worker posts to: its callback, and the newer and the older heartbeat."""

SLOW_SECONDS = 0.1
LATE_SECONDS = 0.5

Answer = int | Literal["slow", "late", "hang", "drop", "cut"]
"""A status; or 200 after a while, or after a while in which it took no note either; or never; or a
closed connection, without an answer or in the middle of one."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived.

    Attributes:
        path: Of the URL.
        authorization: The header, where there was one.
        body: Parsed JSON.
        at: ``time.monotonic()`` of its arrival.
    """

    path: str
    authorization: str | None
    body: Any
    at: float


class Hive:
    """Use as a context manager; every method may be called from any thread."""

    def __init__(self) -> None:
        self._received: list[Received] = []
        self._scripts: dict[str, list[Answer]] = defaultdict(list)
        self._arrival = threading.Condition()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """Base of its routes."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str, script: Sequence[Answer]) -> None:
        """Answer the next requests to ``path`` in this way, and later ones like the last.

        A hive that refuses connections is one whose block has ended.
        """
        self._scripts[path] = list(script)

    def received(self, path: str) -> list[Received]:
        """Return the requests to ``path`` so far."""
        with self._arrival:
            return [request for request in self._received if request.path == path]

    def wait_for(self, path: str, count: int = 1, timeout: float = 10.0) -> list[Received]:
        """Return the requests to ``path`` once there are ``count``; fail after ``timeout`` s."""
        with self._arrival:
            arrived = self._arrival.wait_for(
                lambda: sum(r.path == path for r in self._received) >= count, timeout
            )
        found = self.received(path)
        assert arrived, f"{len(found)} of {count} requests to {path} within {timeout} s"
        return found

    def wait_until(self, path: str, holds: Any, timeout: float = 10.0) -> Received:
        """Return the first request to ``path`` whose body makes ``holds`` true."""

        def match() -> Received | None:
            return next((r for r in self._received if r.path == path and holds(r.body)), None)

        with self._arrival:
            found = self._arrival.wait_for(match, timeout)
        assert found is not None, f"no such request to {path} within {timeout} s"
        return found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _next_answer(self, path: str) -> Answer:
        script = self._scripts[path]
        if not script:
            return 200
        return script.pop(0) if len(script) > 1 else script[0]

    def _note(self, request: Received) -> Answer:
        with self._arrival:
            answer = self._next_answer(request.path)
        if answer == "late":
            self._closing.wait(LATE_SECONDS)
            answer = 200
        with self._arrival:
            self._received.append(request)
            self._arrival.notify_all()
        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hive = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are written one after the other

            def do_POST(self) -> None:  # the base class names it
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                answer = hive._note(
                    Received(
                        self.path,
                        self.headers.get("authorization"),
                        json.loads(body),
                        time.monotonic(),
                    )
                )
                if hive._closing.is_set():
                    self.close_connection = True
                    return
                if answer == "slow":
                    hive._closing.wait(SLOW_SECONDS)
                    answer = 200
                if isinstance(answer, int):
                    self.send_response(answer)
                    self.send_header("content-length", "2")
                    self.end_headers()
                    self.wfile.write(b"{}")
                    return
                if answer == "hang":
                    hive._closing.wait(30)
                if answer == "cut":
                    self.send_response(200)
                    self.send_header("content-length", "20")
                    self.end_headers()
                    self.wfile.write(b"{")
                self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a worker that did not wait for its answer."""
