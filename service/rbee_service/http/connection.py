"""One client's connection, and what it may take of the worker."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sanic.exceptions import RequestTimeout
from sanic.http import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

from rbee_service.errors import ApiError, ErrorCode

_RESPONSE_SECONDS: Final = 3600
_LINGER_SECONDS: Final = 2.0
_LINGER_BODIES: Final = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take of a worker.

    Attributes:
        connections: Open at a time. One more takes the place of the one that has been idle the
            longest; where none is idle, it is answered 503.
        header_bytes: Of a request's line and headers together.
        body_bytes: Of a request's body.
        arrival_seconds: From a request's first byte to its last.
        stall_seconds: In which a client must take some of what waits for it.
        idle_seconds: That a connection may stay open between two requests. Longer than the 90 s
            that common clients keep one, who would otherwise send into a closing connection.
        silence_seconds: That a stream may be silent before a comment shows that it lives.
    """

    connections: int = 512
    header_bytes: int = 8192
    body_bytes: int = 1 << 20
    arrival_seconds: float = 10.0
    stall_seconds: float = 30.0
    idle_seconds: float = 120.0
    silence_seconds: float = 10.0

    def config(self) -> dict[str, object]:
        """Return what the server itself sees to."""
        return {
            "REQUEST_MAX_HEADER_SIZE": self.header_bytes,
            "REQUEST_MAX_SIZE": self.body_bytes,
            # It counts silence, so this is only how often a connection looks at the clock.
            "REQUEST_TIMEOUT": self.arrival_seconds,
            "KEEP_ALIVE_TIMEOUT": self.idle_seconds,
            # A request may wait its turn in silence; its own deadline bounds it, not the server.
            "RESPONSE_TIMEOUT": _RESPONSE_SECONDS,
        }


DEFAULT_LIMITS: Final = Limits()


class Connection(HttpProtocol):
    """Sanic's connection, with limits that hold against clients who mean no good.

    Sanic's own timeouts begin again with every byte, and know nothing of a body that does not
    come or of an answer that is not read.
    """

    __slots__ = ("_arriving_since", "_exchange", "_limits", "_linger", "_stall", "_unwanted")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._limits: Limits = self.app.ctx.limits
        self._arriving_since = time.monotonic()
        self._stall: asyncio.TimerHandle | None = None
        self._exchange: Any = None
        self._linger: asyncio.TimerHandle | None = None
        self._unwanted = 0

    @property
    def idle_since(self) -> float | None:
        """Monotonic seconds since which it has waited for a request; ``None`` if it does not."""
        http = self._http_or_none
        waits = http is None or (http.stage is Stage.IDLE and not _body(http))
        return self._time if waits and self.transport is not None else None

    def connection_made(self, transport: Any) -> None:
        """Take the connection, or tell it that there are too many."""
        if len(self.connections) >= self._limits.connections and not self._make_room():
            structlog.get_logger().warning(
                "Refused a connection", connections=len(self.connections)
            )
            transport.write(_too_many())
            transport.close()
            return
        super().connection_made(transport)  # type: ignore[no-untyped-call]

    def connection_lost(self, error: Exception | None) -> None:
        """Stop whatever is done for the client."""
        self._forget_stall()
        if self._linger is not None:
            self._linger.cancel()
        # One that was refused has been nowhere.
        if self.conn_info is not None:
            super().connection_lost(error)  # type: ignore[no-untyped-call]

    def data_received(self, data: bytes) -> None:
        """Take some of a request."""
        if self.conn_info is None:
            return
        if self._linger is not None:
            self._unwanted += len(data)
            if self._unwanted > _LINGER_BODIES * self._limits.body_bytes:
                self.close()
            return
        if not self._arriving:
            self._arriving_since = time.monotonic()
        super().data_received(data)

    def close(self, timeout: float | None = None) -> None:
        """Close the connection, of a client who is still sending only after a while.

        A connection that is closed with bytes unread is reset, and the reset may overtake the
        answer (RFC 9112, section 9.6). So the answer's end is sent, and what comes is read and
        dropped until the client has seen it, for a bounded time and number of bytes.
        """
        transport, self._exchange, exchange = self.transport, None, self._exchange
        if transport is None or transport.is_closing() or not _body(exchange):
            super().close(timeout)
            return
        transport.write_eof()
        transport.resume_reading()
        self._linger = self.loop.call_later(_LINGER_SECONDS, self.close)

    def check_timeouts(self) -> None:
        """Look at the clock, and again after a while."""
        http = self._http_or_none
        if (
            http is not None
            and self._arriving
            and time.monotonic() - self._arriving_since > self._limits.arrival_seconds
        ):
            # The rest is not waited for either.
            http.request_body = None
            http.exception = RequestTimeout(
                f"the request did not arrive within {self._limits.arrival_seconds:g} s"
            )
            if self._task is not None:
                self._task.cancel()
            return
        super().check_timeouts()  # type: ignore[no-untyped-call]

    def pause_writing(self) -> None:
        """Note that the client does not take what waits for it."""
        super().pause_writing()  # type: ignore[no-untyped-call]
        if self._stall is None:
            self._stall = self.loop.call_later(self._limits.stall_seconds, self._stalled)

    def resume_writing(self) -> None:
        """Note that it does again."""
        self._forget_stall()
        super().resume_writing()  # type: ignore[no-untyped-call]

    def _setup_connection(self, *arguments: Any, **named: Any) -> None:
        super()._setup_connection(*arguments, **named)  # type: ignore[no-untyped-call]
        # The server forgets it before it closes the connection.
        self._exchange = self._http

    @property
    def _http_or_none(self) -> Any:
        return getattr(self, "_http", None)

    @property
    def _arriving(self) -> bool:
        """Whether a request has begun to arrive, and not come to its end."""
        http = self._http_or_none
        return http is not None and (http.stage is Stage.REQUEST or bool(_body(http)))

    def _make_room(self) -> bool:
        idle = [
            (since, other)
            for other in self.connections
            if isinstance(other, Connection) and (since := other.idle_since) is not None
        ]
        if not idle:
            return False
        _, oldest = min(idle, key=lambda pair: pair[0])
        oldest.abort()  # type: ignore[no-untyped-call]
        self.connections.discard(oldest)
        return True

    def _stalled(self) -> None:
        structlog.get_logger().warning(
            "Dropped a client that does not read", seconds=self._limits.stall_seconds
        )
        self.abort()  # type: ignore[no-untyped-call]

    def _forget_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def _too_many() -> bytes:
    error = ApiError(ErrorCode.INSUFFICIENT_RESOURCES, "too many connections")
    body = json.dumps(error.body(), separators=(",", ":")).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
        f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _body(http: Any) -> Any:
    # It has none before its first request.
    return getattr(http, "request_body", None)
