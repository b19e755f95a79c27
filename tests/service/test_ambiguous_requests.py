"""A request that two parsers could read in two ways is refused, and nothing after it is read."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_in import StandInEngine, opened, ready, running
from structlog.testing import capture_logs

from rbee_service.http.connection import Limits
from rbee_service.http.heads import check_head

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b'{"operation":"infer","prompt":"p","max_tokens":4}'
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKS = b"Transfer-Encoding: chunked"
BEARER = b"Authorization: Bearer secret"


def post(*headers: bytes, body: bytes = BODY, version: bytes = b"1.1") -> bytes:
    lines = (b"POST /v1/jobs HTTP/" + version, b"Host: x", *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(*headers: bytes, target: bytes = b"/health", host: bytes = b"Host: x") -> bytes:
    lines = (b"GET " + target + b" HTTP/1.1", host, *headers)
    return b"\r\n".join(line for line in lines if line) + b"\r\n\r\n"


AMBIGUOUS = {
    "length and chunks": post(b"Content-Length: 4", CHUNKS, body=CHUNKED + HIDDEN),
    "chunks and length": post(CHUNKS, LENGTH, body=CHUNKED + HIDDEN),
    "two lengths": post(LENGTH, b"Content-Length: 500", body=BODY + HIDDEN),
    "one length twice": post(LENGTH, LENGTH),
    "a list of lengths": post(b"Content-Length: 49, 49"),
    "a signed length": post(b"Content-Length: +49"),
    "a length as Python writes it": post(b"Content-Length: 4_9"),
    "a length in other digits": post("Content-Length: ٤٩".encode()),
    "a length with a space": post(b"Content-Length : 49"),
    "chunks with a space": post(b"Transfer-Encoding : chunked", body=CHUNKED + HIDDEN),
    "chunks on a folded line": post(b"Transfer-Encoding:\r\n chunked", body=CHUNKED),
    "chunks twice": post(CHUNKS, b"Transfer-Encoding: identity", body=CHUNKED),
    "chunks in a list": post(b"Transfer-Encoding: chunked, identity", body=CHUNKED),
    "chunks by another name": post(b"Transfer-Encoding: xchunked", body=CHUNKED),
    "chunks in 1.0": post(CHUNKS, body=CHUNKED, version=b"1.0"),
    "a signed chunk": post(CHUNKS, body=b"+" + CHUNKED),
    "a negative chunk": post(CHUNKS, body=b"-" + CHUNKED),
    "a trailer": post(CHUNKS, body=CHUNKED[:-2] + b"X-T: 1\r\n\r\n" + HIDDEN),
    "a folded line": post(b"X-A: 1\r\n Content-Length: 500", LENGTH),
    "a line feed": get(b"X-A: a\nTransfer-Encoding: chunked"),
    "a carriage return": get(b"X-A: a\rContent-Length: 500"),
    "a null": get(b"X-A: a\x00b"),
    "a header with a space in its name": get(b"X A: a"),
    "a header without a name": get(b": a"),
    "no host": get(host=b""),
    "two hosts": get(b"Host: y"),
    "a tunnel": b"CONNECT elsewhere:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target that is none": get(target=b"elsewhere:80"),
    "a newer protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


async def answers(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def test_refused_and_closed(tmp_path: Path) -> None:
    async with running(tmp_path, opened(StandInEngine())) as worker:
        await ready(worker)
        for case, sent in AMBIGUOUS.items():
            told = await answers(worker.port, sent)
            assert re.findall(rb"HTTP/1\.1 (\d+) ", told) == [b"400"], case
            assert b"hidden" not in told, case
        plain = post(LENGTH, b"Connection: close") + HIDDEN
        assert re.findall(rb"HTTP/1\.1 (\d+) ", await answers(worker.port, plain)) == [b"200"]


UNREAD = {
    "a malformed head": (get(b"X A: a", BEARER), b"400"),
    "a head that is too long": (get(BEARER, b"X-A: " + b"a" * 10_000), b"413"),
    "a head that does not end": (get(BEARER)[:-2], b"408"),
    "another protocol": (b"\x16\x03\x01\x02\x00", b"408"),
}


async def with_token(tmp_path: Path, sent: bytes) -> bytes:
    """Send it to a worker that has a token."""
    async with running(
        tmp_path,
        opened(StandInEngine()),
        "--host",
        "127.0.0.1",
        environment={"LLORCH_API_TOKEN": "secret"},
        limits=Limits(arrival_seconds=0.3),
    ) as worker:
        return await answers(worker.port, sent)


@pytest.mark.parametrize("case", UNREAD)
async def test_what_cannot_be_read_is_told_so_whatever_token_it_brought(
    tmp_path: Path, case: str
) -> None:
    sent, status = UNREAD[case]
    with capture_logs() as logs:
        told = await with_token(tmp_path, sent)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", told) == [status]
    assert b"API_KEY" not in told
    assert "API_KEY" not in repr(logs)


async def test_a_method_of_that_name_leads_nowhere(tmp_path: Path) -> None:
    sent = b"NONE /v1/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    told = await with_token(tmp_path, sent)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", told) in ([b"404"], [b"405"])
    assert b"slots" not in told


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"c-1", True),
        (b" c-1 ", True),
        (b"a%0d%0aX-Evil: 1", False),
        (b"a\x85X-Evil: 1", False),
        (b"a\xe2\x80\xa8b", False),
        (b"\xff\xfe", False),
        (b"a" * 129, False),
        (b"<script>", False),
        (b"../../etc/passwd", False),
    ],
)
async def test_nothing_is_injected_through_the_correlation_id(
    tmp_path: Path, sent: bytes, kept: bool
) -> None:
    async with running(tmp_path, opened(StandInEngine())) as worker:
        told = await answers(worker.port, get(b"X-Correlation-ID: " + sent, b"Connection: close"))
    head = told.split(b"\r\n\r\n")[0]
    [echoed] = re.findall(rb"x-correlation-id: ([^\r\n]*)", head)
    assert re.fullmatch(rb"[A-Za-z0-9._-]{1,128}", echoed)
    assert (echoed == sent.strip()) == kept
    assert b"Evil" not in head


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "a%00b", "a%0d%0ab", "%ff"])
async def test_names_lead_nowhere(tmp_path: Path, name: str) -> None:
    asked = [f"DELETE /v1/jobs/{name}", f"GET /v1/jobs/{name}/stream", f"GET /v1/models/{name}"]
    asked += [f"GET /docs/{name}", f"GET /{name}"]
    async with running(tmp_path, opened(StandInEngine())) as worker:
        await ready(worker)
        for line in asked:
            sent = f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            told = await answers(worker.port, sent)
            assert told.startswith(b"HTTP/1.1 404 "), line
            assert b"root:" not in told


tokens = st.text("!#$%&'*+.^_`|~-abcXYZ019", min_size=1).map(str.encode)
values = st.binary().map(lambda b: bytes(c for c in b if c in b"\t" or (c >= 32 and c != 127)))
framing = {b"host", b"content-length", b"transfer-encoding"}


@given(st.lists(st.tuples(tokens.filter(lambda t: t.lower() not in framing), values)))
async def test_what_is_plain_passes(headers: list[tuple[bytes, bytes]]) -> None:
    lines = [b"GET /v1/ready?a=b HTTP/1.1", b"Host: x"]
    await check_head(b"\r\n".join([*lines, *(n + b": " + v for n, v in headers)]))


@given(tokens, values, st.sampled_from([b"\r", b"\n", b"\x00", b"\x7f", b"\r\n ", b"\r\n\t"]))
async def test_what_is_not_plain_does_not(name: bytes, value: bytes, amiss: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nHost: x\r\n" + name + b": a" + amiss + value
    with pytest.raises(ValueError, match="header"):
        await check_head(head)
