"""An image as a directory, and containers of it without Docker: namespaces of Linux's own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

# What a container's runtime lays out before it starts the program, as process 1. Device files are
# the host's own, as in the file system of the image none might work.
_LAYOUT = """
set -e
unshare=$1 root=$2 access=$3 user=$4 group=$5 directory=$6
shift 6
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -o bind,ro /sys "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero random urandom; do
  : > "$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir -m 1777 "$root/dev/shm"
while [ "$1" != -- ]; do
  mount -o "bind,$3" "$1" "$root$2"
  shift 3
done
shift
mount -o "remount,bind,$access" "$root"
exec "$unshare" --root="$root" --wd="$directory" --setgid="$group" --setuid="$user" "$@"
"""
_NAMESPACES = ("--mount", "--pid", "--fork")


def why_not() -> str:
    """Return why there can be no containers here, or nothing."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return "containers need util-linux: unshare is missing"
    tried = subprocess.run(
        [unshare, *_NAMESPACES, "mount", "-t", "tmpfs", "tmpfs", "/tmp"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"containers need root's rights: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass(frozen=True)
class Mount:
    """A directory of the host that a container sees."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Container:
    """A running command."""

    outside: subprocess.Popen[bytes]
    output: IO[bytes]

    def said(self) -> str:
        """Return all that it has written so far."""
        self.output.seek(0)
        return self.output.read().decode()

    @property
    def main(self) -> psutil.Process | None:
        """Process 1, while there is one."""
        try:
            return next(iter(psutil.Process(self.outside.pid).children()), None)
        except psutil.NoSuchProcess:
            return None

    def send(self, number: signal.Signals) -> None:
        """Send process 1 a signal, as ``docker stop`` does."""
        assert self.main is not None, self.said()
        self.main.send_signal(number)

    def exit_code(self, limit: float) -> int:
        """Wait for its end."""
        return self.outside.wait(limit)


@dataclass(frozen=True)
class Image:
    """What a stage of a Dockerfile makes.

    Attributes:
        root: The files.
        environment: ``ENV``; Docker's own ``PATH`` and ``HOME`` to begin with.
        directory: ``WORKDIR``.
        user: Numbers of the user and of its group.
    """

    root: Path
    environment: Mapping[str, str] = field(
        default_factory=lambda: {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
        }
    )
    directory: str = "/"
    user: tuple[int, int] = (0, 0)

    @contextmanager
    def started(
        self,
        command: Sequence[str],
        mounts: Sequence[Mount] = (),
        variables: Mapping[str, str] | None = None,
        *,
        writable: bool = False,
    ) -> Iterator[Container]:
        """Start a command, and kill it if it still runs after the block.

        Args:
            command: What is to be process 1.
            mounts: What it sees of the host.
            variables: What its environment has besides the image's.
            writable: Whether it may change the image's files; they stay changed.
        """
        unshare = shutil.which("unshare") or "unshare"
        words = [unshare, *_NAMESPACES, shutil.which("sh") or "sh", "-c", _LAYOUT, "sh", unshare]
        words += [str(self.root), "rw" if writable else "ro", *map(str, self.user), self.directory]
        for mount in mounts:
            (self.root / mount.target.lstrip("/")).mkdir(parents=True, exist_ok=True)
            words += [str(mount.source), mount.target, "rw" if mount.writable else "ro"]
        with tempfile.TemporaryFile() as output:
            outside = subprocess.Popen(
                [*words, "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self.environment, **(variables or {})},
            )
            container = Container(outside, output)
            try:
                yield container
            finally:
                # With process 1 all others of its namespace end.
                if container.main is not None:
                    container.main.kill()
                outside.kill()
                outside.wait()

    def run(
        self,
        command: Sequence[str],
        mounts: Sequence[Mount] = (),
        variables: Mapping[str, str] | None = None,
        *,
        writable: bool = False,
        limit: float = 60.0,
    ) -> tuple[int, str]:
        """Run a command to its end; return its exit code and all that it wrote."""
        with self.started(command, mounts, variables, writable=writable) as container:
            return container.exit_code(limit), container.said()
