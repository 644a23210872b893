"""Who reads the addresses and exceptions of a failure where nobody signs in."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from mllama_demo.config.settings import Settings
from mllama_demo.present.web.routes import _may_read_causes  # pyright: ignore[reportPrivateUsage]


def may_read_causes(client: str, host: str, **headers: str) -> bool:
    sent = [(b"host", host.encode()), *((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())]
    return _may_read_causes(Request({"type": "http", "client": (client, 5), "headers": sent}), Settings())


@pytest.mark.parametrize("host", ["localhost", "localhost:7860", "127.0.0.1:7860", "[::1]:7860", "[::1]", "LOCALHOST"])
@pytest.mark.parametrize("client", ["127.0.0.1", "::1"])
def test_a_browser_on_this_machine_may(client: str, host: str) -> None:
    assert may_read_causes(client, host)


@pytest.mark.parametrize("host", ["demo.example.com", "192.0.2.7:7860", "localhost.example.com", "", "[::1", "127.0.0.1.nip.io"])
def test_a_client_of_a_proxy_or_a_tunnel_may_not(host: str) -> None:
    assert not may_read_causes("127.0.0.1", host)


def test_a_client_elsewhere_or_one_that_a_proxy_names_may_not() -> None:
    assert not may_read_causes("192.0.2.7", "localhost:7860")
    assert not may_read_causes("127.0.0.1", "localhost:7860", x_forwarded_for="192.0.2.7")
    assert not may_read_causes("127.0.0.1", "localhost:7860", x_real_ip="192.0.2.7")
