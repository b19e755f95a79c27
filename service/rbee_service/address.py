"""Where the worker listens, and where others find it."""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

_BACKLOG: Final = 1024
_LOOPBACK: Final = "127.0.0.1"


class AddressFault(Exception):
    """The address cannot be listened on; the message says why and what to do."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``; of names, only ``localhost`` counts."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that accepts connections from now on; port 0 takes any free one.

    Raises:
        AddressFault: The port is taken, or the address is not one of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AddressFault(
            f"--host {host}: {error.strerror}; give an address of this machine"
        ) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise AddressFault(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port or --host"
        ) from None
    listener.setblocking(False)
    return listener


def advertised_host(bound: str, target: str | None) -> str:
    """Return the host under which the one at ``target`` reaches this worker, ready for a URL.

    Args:
        bound: Address the worker listens on.
        target: URL of whoever is told, or ``None``.
    """
    host = bound
    if bound in {"0.0.0.0", "::"}:
        host = _source_address(target) if target else _LOOPBACK
    elif bound == "localhost":
        host = _LOOPBACK
    return f"[{host}]" if ":" in host else host


def _source_address(target: str) -> str:
    """Return this machine's address on the way to ``target``; nothing is sent."""
    url = urlsplit(target)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            url.hostname, url.port or 80, type=socket.SOCK_DGRAM
        )[0]
        with closing(socket.socket(family, kind, protocol)) as probe:
            # Connecting a datagram socket only asks the routing table.
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return _LOOPBACK
