"""A model hub on this machine: the part of its protocol that downloads use, with faults at will."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".gguf", ".bin", ".model")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked.

    Attributes:
        method: ``GET`` or ``HEAD``.
        path: Without the query.
        start: Where the range begins that was asked for; 0 for the whole.
        token: From the authorisation, if any.
    """

    method: str
    path: str
    start: int
    token: str | None


@dataclass(slots=True)
class Repository:
    """A repository with one commit on its branch ``main``, and a tag ``v1`` on the same."""

    files: dict[str, bytes]
    token: str | None = None
    gated: bool = False
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the listing says of a file instead of the truth."""

    @property
    def commit(self) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for name, data in sorted(self.files.items()):
            digest.update(f"{name} {len(data)}\0".encode() + data)
        return digest.hexdigest()

    def knows(self, revision: str) -> bool:
        return revision in ("main", "v1", "refs/pr/1", self.commit)


@dataclass(slots=True)
class HubStandIn:
    """The hub's state, which tests change while it serves.

    Attributes:
        url: Its address.
        repositories: By ``org/name``.
        requests: What was asked, in order.
        drops: After how many bytes each of the next bodies of weights ends, connection and all.
        errors: Statuses of the next answers to requests that ``errors_at`` is part of; 0 for the
            answer itself.
        errors_at: Part of ``METHOD /path``.
        corrupt: Whether the first byte of weights is sent as another.
        ignores_ranges: Whether it always sends the whole.
        delay: Seconds before each answer.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    drops: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    errors_at: str = ""
    corrupt: bool = False
    ignores_ranges: bool = False
    delay: float = 0.0

    def add(self, name: str, files: Mapping[str, bytes | str], **options: Any) -> Repository:
        content = {k: v.encode() if isinstance(v, str) else v for k, v in files.items()}
        self.repositories[name] = Repository(content, **options)
        return self.repositories[name]

    def bodies(self) -> list[tuple[str, int]]:
        """Return name and start of each body of a file that was asked for."""
        return [
            (request.path.partition("/resolve/")[2], request.start)
            for request in self.requests
            if request.method == "GET" and "/resolve/" in request.path
        ]


@contextlib.contextmanager
def serve_hub() -> Iterator[HubStandIn]:
    hub = HubStandIn()
    server = _Server(hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: HubStandIn) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        hub.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written one after the other

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        assert isinstance(self.server, _Server)
        hub = self.server.hub
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        span = self.headers.get("Range", "bytes=0-")
        start = int(span.removeprefix("bytes=").split("-")[0])
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        hub.requests.append(Request(self.command, path, start, token))
        time.sleep(hub.delay)
        faulty = hub.errors and hub.errors_at in f"{self.command} {path}"
        if status := hub.errors.pop(0) if faulty else 0:
            self._refuse(status, "", "as asked")
        elif path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            self._list(hub, name, revision or "main", token, blobs="blobs" in query)
        elif path.startswith("/cdn/"):
            name, file = path.removeprefix("/cdn/").split("//")
            self._send(hub, hub.repositories[name].files[file], start)
        else:
            name, _, rest = path.strip("/").partition("/resolve/")
            self._resolve(hub, name, rest, start, token)

    def _list(
        self, hub: HubStandIn, name: str, revision: str, token: str | None, *, blobs: bool
    ) -> None:
        repository = hub.repositories.get(name)
        if repository is None or repository.token not in (None, token):
            # The hub does not tell a stranger whether there is a private repository.
            if token is None:
                self._refuse(401, "", "Invalid username or password.")
            else:
                self._refuse(404, "RepoNotFound", "Repository not found")
            return
        if not repository.knows(revision):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        siblings = []
        for file, data in repository.files.items():
            entry: dict[str, Any] = {"rfilename": file}
            if blobs:
                entry |= {"size": len(data), "blobId": _git_name(data)}
                if file.endswith(LFS_SUFFIXES):
                    entry["lfs"] = {"sha256": _sha256(data), "size": len(data), "pointerSize": 135}
            siblings.append(entry | repository.listed.get(file, {}))
        body = {"id": name, "modelId": name, "sha": repository.commit, "siblings": siblings}
        self._json(200, {**body, "private": False, "tags": [], "downloads": 0, "likes": 0})

    def _resolve(
        self, hub: HubStandIn, name: str, rest: str, start: int, token: str | None
    ) -> None:
        repository = hub.repositories.get(name)
        if repository is None or repository.token not in (None, token):
            self._refuse(401, "RepoNotFound", "Repository not found")
            return
        first = rest.partition("/")[0]
        revision = "refs/pr/1" if first == "refs" else first
        file = rest.removeprefix(f"{revision}/")
        if not repository.knows(revision):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif file not in repository.files:
            self._refuse(404, "EntryNotFound", "Entry not found")
        elif repository.gated:
            self._refuse(403 if token else 401, "GatedRepo", f"Access to {name} is restricted")
        else:
            self._resolved(hub, repository, name, file, start)

    def _resolved(
        self, hub: HubStandIn, repository: Repository, name: str, file: str, start: int
    ) -> None:
        data = repository.files[file]
        headers = {"X-Repo-Commit": repository.commit}
        if not file.endswith(LFS_SUFFIXES):
            self._send(hub, data, start, {**headers, "ETag": f'"{_git_name(data)}"'}, sound=True)
            return
        # Weights lie on another host, as browsers and clients count hosts.
        elsewhere = hub.url.replace("127.0.0.1", "localhost")
        self.send_response(302)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("X-Linked-ETag", f'"{_sha256(data)}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Location", f"{elsewhere}/cdn/{name}//{file}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(
        self,
        hub: HubStandIn,
        data: bytes,
        start: int,
        headers: Mapping[str, str] | None = None,
        *,
        sound: bool = False,
    ) -> None:
        if hub.corrupt and not sound:
            data = bytes([data[0] ^ 1]) + data[1:]
        if hub.ignores_ranges:
            start = 0
        self.send_response(206 if start else 200)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = data[start:]
        if hub.drops and not sound:
            body = body[: hub.drops.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._json(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _json(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_name(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()
