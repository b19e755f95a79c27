"""What every program that is started here to be measured has in common."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import IO


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def plain_environment() -> dict[str, str]:
    """Return this process's variables without those that configure workers.

    A worker configured by the caller's environment would not be the one described.
    """
    prefixes = ("RBEE_", "LLORCH_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Ask a process to end, and make it after ``grace`` seconds."""
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_words(noise: IO[bytes]) -> str:
    """Return the last line that a process wrote to a file and that is not blank; "" if none is."""
    noise.seek(0)
    lines = noise.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
