"""Serves an application on a socket, inside the event loop that is already running."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Final, cast

from sanic import Sanic
from sanic.application.state import ApplicationServerInfo
from sanic.http.constants import HTTP
from sanic.server import AsyncioServer

from rbee_service.http.app import App
from rbee_service.http.connection import Connection

_BACKLOG: Final = 1024
_FLUSH_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.01


class HttpServer:
    """A Sanic server whose start and stop are the caller's, signals included.

    Args:
        app: With all its routes.
        listener: A bound socket; it belongs to the server from now on.
    """

    def __init__(self, app: App, listener: socket.socket) -> None:
        self._app = app
        self._listener = listener
        self._server: AsyncioServer | None = None

    async def start(self) -> None:
        """Answer requests from now on."""
        # Sanic looks here for what to say of other versions, and knows not of a server of ours: it
        # would send an empty `alt-svc` with every answer.
        known = ApplicationServerInfo({"version": HTTP.VERSION_1})
        self._app.state.server_info.append(known)
        created = await self._app.create_server(
            sock=self._listener,
            protocol=Connection,
            backlog=_BACKLOG,
            asyncio_server_kwargs={"start_serving": False},
        )
        server = cast(AsyncioServer, created)
        await server.startup()  # type: ignore[no-untyped-call]
        await server.start_serving()  # type: ignore[no-untyped-call]
        self._server = server

    async def stop(self) -> None:
        """Take no more connections and close those there are, once their answers are sent."""
        server, self._server = self._server, None
        if server is None:
            return
        closed = server.close()  # type: ignore[no-untyped-call]
        deadline = time.monotonic() + _FLUSH_SECONDS
        while server.connections and time.monotonic() < deadline:
            for connection in list(server.connections):
                connection.close_if_idle()
            await asyncio.sleep(_POLL_SECONDS)
        for connection in list(server.connections):
            connection.abort()
        await closed
        Sanic.unregister_app(self._app)
