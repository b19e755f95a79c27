"""What an enemy may send: wrong in type, size, encoding or manners."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from rbee_bench.attack_bodies import GOOD, good_body, spoilt_body

_ROUTES: Final = tuple(GOOD)

Make = Callable[[random.Random], bytes]


def _http(path: str, body: bytes, *headers: str, method: str = "POST", length: int = -1) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: worker", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _posted(route: str, body: Mapping[str, Any], *headers: str) -> bytes:
    return _http(route, json.dumps(body).encode(), *headers)


def _wrong_type(dice: random.Random) -> bytes:
    return _posted(*spoilt_body(dice))


def _no_json(dice: random.Random) -> bytes:
    bodies = [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"',
        b"{}{}",
        b"NaN",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b"[" * 5000,
        b'{"a":' * 3000,
        b"1" * 5000,
        b'{"job_id":"\\ud800"}',
        b"\x00" * 100,
    ]
    return _http(dice.choice(_ROUTES), dice.choice(bodies))


def _random_body(dice: random.Random) -> bytes:
    encoding = dice.choice(["gzip", "identity", "br", "\x7f"])
    kind = dice.choice(["application/json", "text/plain", "multipart/form-data", "x/y; charset=zz"])
    headers = (f"Content-Encoding: {encoding}", f"Content-Type: {kind}")
    return _http(dice.choice(_ROUTES), dice.randbytes(dice.randint(1, 400)), *headers)


def _too_long(dice: random.Random) -> bytes:
    route, body = good_body(dice)
    [name] = {"prompt", "messages", "input"} & body.keys()
    length = dice.choice([32_769, 100_000, 900_000])
    body[name] = [{"role": "user", "content": "a" * length}] if name == "messages" else "a" * length
    return _posted(route, body)


def _claimed_length(dice: random.Random) -> bytes:
    return _http("/v1/inference", b"{", length=dice.choice([1 << 21, 1 << 40, 10**30]))


def _bad_http(dice: random.Random) -> bytes:
    return dice.choice(
        [
            b"GARBAGE\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
            b"GET  HTTP/1.1\r\n\r\n",
            b"\r\n\r\n",
            b"\x00\x01\x02\r\n\r\n",
            b"GET / HTTP/1.1\r\nno\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"CONNECT a:1 HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
            b"POST /v1/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
            b"POST /v1/infer HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nConnection: close\r\n\r\n",
            b"GET /a%0d%0aX-Evil:1 HTTP/1.1\r\nConnection: close\r\n\r\n",
            b"GET /health HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
            b"GET /health HTTP/1.1\r\n" + b"a:b\r\n" * 4000 + b"\r\n",
        ]
    )


def _bad_headers(dice: random.Random) -> bytes:
    value = dice.choice(
        ["", "\x7f", "a" * 3000, "-1", "1e9", "9" * 40, "\xff\xfe", "Bearer " * 200]
    )
    name = dice.choice(
        [
            "X-Deadline",
            "X-Correlation-ID",
            "X-RBEE-SSE-Dialect",
            "Authorization",
            "Expect",
            "Upgrade",
        ]
    )
    return _posted(*good_body(dice), f"{name}: {value}")


def _nowhere(dice: random.Random) -> bytes:
    path = dice.choice(["/v1/jobs/x/stream", "/v1/jobs/%00", "/docs/../x", "/" + "a" * 3000, "//"])
    method = dice.choice(["GET", "DELETE", "PUT", "OPTIONS", "TRACE", "HEAD", "PATCH"])
    return _http(path, b"", method=method)


def _noise(dice: random.Random) -> bytes:
    return dice.randbytes(dice.randint(1, 300)) + b"\r\n\r\n"


def _crowded_pipe(dice: random.Random) -> bytes:
    return b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * dice.randint(2, 50) + _bad_http(dice)


def _half(make: Make) -> Make:
    def cut(dice: random.Random) -> bytes:
        whole = make(dice)
        return whole[: dice.randrange(len(whole))]

    return cut


def _well_formed(dice: random.Random) -> bytes:
    return _posted(*good_body(dice))


SLOW_BODY: Final = _http("/v1/inference", b"", length=9999)
"""The head of a request whose body comes a byte at a time."""

ATTACKS: Final[Mapping[str, Make]] = MappingProxyType(
    {
        "wrong types": _wrong_type,
        "no JSON": _no_json,
        "half-closed in the middle": _half(_well_formed),
        "random body": _random_body,
        "bad HTTP": _bad_http,
        "left in the middle": _half(_well_formed),
        "bad headers": _bad_headers,
        "no route": _nowhere,
        "noise": _noise,
        "left waiting": _well_formed,
        "pipelined": _crowded_pipe,
        "half-closed after it": _wrong_type,
        "claimed length": _claimed_length,
        "wrong types again": _wrong_type,
        "left with nothing": lambda _: b"",
        "too long": _too_long,
    }
)
