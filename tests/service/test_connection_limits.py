"""Clients that send slowly, do not read, or come in crowds harm nobody but themselves."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from stand_in import Running, StandInEngine, endless, opened, ready, running, text

from rbee_runtime.events import Event, Piece, Started
from rbee_runtime.request import Request
from rbee_service.http.connection import Limits

JOB = b'{"job_id":"j","prompt":"p","max_tokens":4}'
POST = (b"POST /v1/inference HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(JOB)) + JOB
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def worker(directory: Path, engine: StandInEngine, limits: Limits) -> AsyncIterator[Running]:
    async with running(directory, opened(engine), limits=limits) as worker:
        await ready(worker)
        yield worker


@asynccontextmanager
async def connected(worker: Running, receive_buffer: int = 0) -> AsyncIterator[Streams]:
    with socket.socket() as client:
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", worker.port))
        reader, writer = await asyncio.open_connection(sock=client, limit=4096)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def rest(reader: asyncio.StreamReader, timeout: float = 10.0) -> bytes:
    """Return all that comes until the worker closes the connection."""
    read = b""
    async with asyncio.timeout(timeout):
        try:
            while chunk := await reader.read(65536):
                read += chunk
        except ConnectionResetError:
            pass
    return read


async def serves(worker: Running) -> None:
    async with httpx.AsyncClient(base_url=worker.url, timeout=5) as client:
        answer = await client.post("/v1/inference", content=JOB)
        assert answer.content.endswith(b"data: [DONE]\n\n")


SLOW = {
    "request line": (b"", itertools.repeat(b"G"), 408),
    "headers": (b"GET /health HTTP/1.1\r\n", itertools.cycle([b"x", b":", b"y", b"\r\n"]), 408),
    "body": (
        b"POST /v1/inference HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n",
        itertools.repeat(b" "),
        408,
    ),
    "chunks": (
        b"POST /v1/inference HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        itertools.repeat(b"1\r\n \r\n"),
        408,
    ),
    # The answer comes at once; what nobody asked to see is not waited for any longer than this.
    "body of no route": (
        b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n",
        itertools.repeat(b" "),
        404,
    ),
}


@pytest.mark.parametrize("part", SLOW)
async def test_a_request_must_arrive_in_time(tmp_path: Path, part: str) -> None:
    engine = StandInEngine()
    begin, drops, status = SLOW[part]
    async with (
        worker(tmp_path, engine, Limits(arrival_seconds=0.5)) as serving,
        connected(serving) as (reader, writer),
    ):
        writer.write(begin)

        async def trickle() -> None:
            for drop in drops:
                writer.write(drop)
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        head, _, body = (await rest(reader)).partition(b"\r\n\r\n")
        trickling.cancel()
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert json.loads(body)["code"] == "INVALID_REQUEST"
        await serves(serving)
    assert len(engine.submitted) == 1


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n" + 14 * (b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
TOO_LARGE = {
    "of a length": b"Content-Length: 900000\r\n\r\n" + b"x" * 900_000,
    "in chunks": CHUNKED + b"0\r\n\r\n",
}


@pytest.mark.parametrize("body", TOO_LARGE)
async def test_a_client_reads_that_its_body_is_too_large(tmp_path: Path, body: str) -> None:
    """It sends all of it first, and then finds the answer and a plain end, not a reset."""

    def send_and_read(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(b"POST /v1/inference HTTP/1.1\r\nHost: x\r\n" + TOO_LARGE[body])
            read = b""
            while piece := client.recv(65536):
                read += piece
            return read

    async with worker(tmp_path, StandInEngine(), Limits(body_bytes=1 << 16)) as serving:
        head, _, told = (await asyncio.to_thread(send_and_read, serving.port)).partition(
            b"\r\n\r\n"
        )
        assert head.startswith(b"HTTP/1.1 413 ")
        assert json.loads(told)["code"] == "INVALID_REQUEST"


async def test_a_client_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    async with (
        worker(tmp_path, StandInEngine(), Limits(body_bytes=1 << 10)) as serving,
        connected(serving) as (_, writer),
    ):
        writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")

        async def flood() -> None:
            while True:
                writer.write(b"x" * 1024)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(flood(), 10)


async def test_silence_in_the_middle_of_a_request(tmp_path: Path) -> None:
    async with (
        worker(tmp_path, StandInEngine(), Limits(arrival_seconds=0.2)) as serving,
        connected(serving) as (reader, writer),
    ):
        writer.write(POST[:-1])
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")


async def test_an_answer_may_take_longer_than_a_request(tmp_path: Path) -> None:
    engine = StandInEngine(endless)
    async with (
        worker(tmp_path, engine, Limits(arrival_seconds=0.1)) as serving,
        httpx.AsyncClient(base_url=serving.url, timeout=10) as client,
    ):
        asking = asyncio.create_task(client.post("/v1/inference", content=JOB))
        await engine.wait(lambda: engine.live == 1)
        await asyncio.sleep(0.5)
        engine.cancel(engine.submitted[0].request_id)
        assert (await asking).content.endswith(b"data: [DONE]\n\n")


async def test_a_connection_is_not_kept_for_ever(tmp_path: Path) -> None:
    async with (
        worker(tmp_path, StandInEngine(), Limits(idle_seconds=0.3)) as serving,
        connected(serving) as (reader, writer),
    ):
        writer.write(HEALTH)
        assert (await rest(reader)).startswith(b"HTTP/1.1 200 ")


async def test_one_connection_too_many(tmp_path: Path) -> None:
    engine = StandInEngine(endless)
    async with (
        worker(tmp_path, engine, Limits(connections=2)) as serving,
        connected(serving) as (_, first),
        connected(serving) as (_, second),
    ):
        for writer in (first, second):
            writer.write(POST)
        await engine.wait(lambda: engine.live == 2)
        async with connected(serving) as (reader, _):
            head, _, body = (await rest(reader)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in head
        assert json.loads(body) == {
            "code": "INSUFFICIENT_RESOURCES",
            "message": "too many connections",
            "retriable": True,
        }
        first.transport.abort()
        await engine.wait(lambda: engine.live == 1)
        async with connected(serving) as (reader, writer):
            writer.write(HEALTH)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


async def test_the_longest_idle_connection_makes_room(tmp_path: Path) -> None:
    async with (
        worker(tmp_path, StandInEngine(), Limits(connections=2)) as serving,
        connected(serving) as (silent, _),
        connected(serving) as (spoken, writer),
    ):
        writer.write(HEALTH)
        assert (await spoken.readline()).startswith(b"HTTP/1.1 200 ")
        async with connected(serving):
            assert await rest(silent) == b""
            writer.write(HEALTH.replace(b"x", b"x\r\nConnection: close"))
            assert b"HTTP/1.1 200 " in await rest(spoken)


async def test_a_reader_who_stops_is_dropped(tmp_path: Path) -> None:
    """What waits for it is no more than fits, but it takes none of it."""

    def much(request: Request) -> Iterator[Event]:
        if request.prompt == "p":
            yield from text("short")
            return
        yield Started(3, 7)
        for number in range(500):
            yield Piece("x" * 20_000, number + 1)

    engine = StandInEngine(much)
    async with (
        worker(tmp_path, engine, Limits(stall_seconds=0.5)) as serving,
        connected(serving, 4096) as (_, writer),
    ):
        writer.write(POST.replace(b'"p"', b'"q"'))
        await engine.wait(lambda: engine.live == 1)
        await serves(serving)
        await engine.wait(lambda: bool(engine.cancelled), 10)
        assert engine.cancelled == [engine.submitted[0].request_id]
        await serves(serving)


async def test_a_reader_who_falls_behind_is_dropped(tmp_path: Path) -> None:
    def endlessly(request: Request) -> Iterator[Event]:
        if request.prompt == "p":
            yield from text("short")
            return
        yield Started(3, 7)
        for number in itertools.count(1):
            if engine.cancelled:
                return
            yield Piece("x" * 20_000, number)

    engine = StandInEngine(endlessly)
    async with (
        worker(tmp_path, engine, Limits(stall_seconds=3600)) as serving,
        connected(serving, 4096) as (_, writer),
    ):
        writer.write(POST.replace(b'"p"', b'"q"'))
        await engine.wait(lambda: bool(engine.cancelled), 20)
        await serves(serving)


@pytest.mark.parametrize("route", ["/v1/inference", "/v1/infer", "/v1/completions"])
async def test_a_client_that_leaves_while_it_waits(tmp_path: Path, route: str) -> None:
    """Nothing has been written to it that could fail: its going is seen all the same."""
    engine = StandInEngine(lambda _: ())
    body = b'{"job_id":"j","prompt":"p","max_tokens":4,"model":"hf:test/stand-in"}'
    if route == "/v1/completions":
        body = body.replace(b'"job_id":"j",', b"")
    async with (
        worker(tmp_path, engine, Limits()) as serving,
        connected(serving) as (_, writer),
    ):
        head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await engine.wait(lambda: engine.live == 1)
        writer.transport.abort()
        await engine.wait(lambda: engine.live == 0)
        assert engine.cancelled == [engine.submitted[0].request_id]
