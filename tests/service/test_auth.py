"""Every route but the public ones asks for the token, and the token is never shown."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from sanic import Sanic
from stand_in import StandInEngine, opened, running
from structlog.testing import capture_logs

from rbee_service.auth import ApiToken, Unauthorized

SECRET = "s3cret-token-of-the-worker"
MISSING = {"MISSING_API_KEY", "authentication_error"}
INVALID = {"INVALID_API_KEY", "authentication_error"}
PUBLIC = {"/health", "/v1/health", "/metrics", "/docs", "/docs/openapi.json"}


async def test_every_route_of_the_router(tmp_path: Path) -> None:
    environment = {"LLORCH_API_TOKEN": SECRET}
    with capture_logs() as logs:
        async with (
            running(
                tmp_path,
                opened(StandInEngine()),
                "--host",
                "127.0.0.1",
                "--worker-id",
                "w-1",
                environment=environment,
            ) as worker,
            httpx.AsyncClient(base_url=worker.url) as client,
        ):
            routes = [
                (method, f"/{route.path}")
                for route in Sanic.get_app("worker_w-1").router.routes
                for method in route.methods
            ]
            assert {path for _, path in routes} > PUBLIC
            assert {path for method, path in routes if method == "HEAD"} == PUBLIC
            nowhere = [("GET", "/v1/nowhere"), ("PUT", "/v1/ready"), ("GET", "/")]
            for method, path in routes + nowhere:
                missing = await client.request(method, path)
                wrong = await client.request(
                    method, path, headers={"Authorization": "Bearer wrong"}
                )
                right = await client.request(
                    method, path, headers={"Authorization": f"Bearer {SECRET}"}
                )
                if path in PUBLIC:
                    assert missing.status_code == wrong.status_code == 200
                    continue
                assert missing.status_code == 401, (method, path)
                told = missing.json()["error"]
                assert told.get("code", told.get("type")) in MISSING
                assert missing.headers["www-authenticate"] == "Bearer"
                assert wrong.status_code == 401, (method, path)
                told = wrong.json()["error"]
                assert told.get("code", told.get("type")) in INVALID
                assert right.status_code != 401, (method, path)
    assert logs
    assert SECRET not in repr(logs)
    assert ApiToken(SECRET).fingerprint in repr(logs)


@pytest.mark.parametrize(
    "header",
    [f"Bearer {SECRET}", f"bearer {SECRET}", f"BEARER  {SECRET} "],
)
def test_accepted(header: str) -> None:
    ApiToken(SECRET).check(header)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "MISSING_API_KEY"),
        ("", "MISSING_API_KEY"),
        ("Bearer", "MISSING_API_KEY"),
        ("Bearer ", "MISSING_API_KEY"),
        (SECRET, "MISSING_API_KEY"),
        (f"Basic {SECRET}", "MISSING_API_KEY"),
        (f"Bearer {SECRET}x", "INVALID_API_KEY"),
        (f"Bearer {SECRET[:-1]}", "INVALID_API_KEY"),
        (f"Bearer {SECRET.upper()}", "INVALID_API_KEY"),
        ("Bearer \udcff", "INVALID_API_KEY"),
    ],
)
def test_refused(header: str | None, code: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        ApiToken(SECRET).check(header)
    assert caught.value.code == code
    assert SECRET not in str(caught.value)


def test_the_fingerprint_is_all_it_shows() -> None:
    token = ApiToken(SECRET)
    assert len(token.fingerprint) == 6
    assert int(token.fingerprint, 16) >= 0
    assert SECRET not in repr(token)
    assert token.fingerprint != ApiToken("other").fingerprint
