"""Where the worker listens and what it says about that."""

from __future__ import annotations

import pytest

from rbee_service.address import AddressFault, advertised_host, listen


def test_a_port_in_use() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressFault, match=f"port {port}: Address already in use.*--port"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["198.51.100.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(AddressFault, match="--host") as caught:
        listen(host, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bound", "target", "host"),
    [
        ("127.0.0.1", "http://10.0.0.1:9200", "127.0.0.1"),
        ("localhost", "http://10.0.0.1:9200", "127.0.0.1"),
        ("10.1.2.3", "http://127.0.0.1:9200", "10.1.2.3"),
        ("0.0.0.0", "http://127.0.0.1:9200/x", "127.0.0.1"),
        ("0.0.0.0", "http://no.such.host.invalid", "127.0.0.1"),
        ("0.0.0.0", None, "127.0.0.1"),
        ("::1", "http://[::1]:9200", "[::1]"),
    ],
)
def test_the_advertised_host(bound: str, target: str | None, host: str) -> None:
    assert advertised_host(bound, target) == host
