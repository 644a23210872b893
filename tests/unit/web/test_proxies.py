"""A proxy that hides its visitors is named in the log, once; trusted_proxies makes their addresses known."""

from __future__ import annotations

import logging
import secrets
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from mllama_demo.config.settings import Settings
from mllama_demo.web.proxies import MANY_VISITORS, ProxyWarnings


async def address(request: Request) -> Response:
    return PlainTextResponse(request.client.host if request.client else "")


def client(of: str = "10.0.0.5", **options) -> TestClient:
    """The application behind uvicorn's middleware for proxies, as web/serve.py configures it."""
    import uvicorn

    app = Starlette(routes=[Route("/", address)])
    app.add_middleware(ProxyWarnings)
    config = uvicorn.Config(app, forwarded_allow_ips=Settings(**options).trusted_proxies)
    config.load()
    loaded: Any = config.loaded_app
    return TestClient(loaded, client=(of, 50000))


def visit(client: TestClient, visitor: str | None = None, **headers: str) -> str:
    cookie = {"Cookie": f"mllama_visitor={visitor or secrets.token_urlsafe(24)}"}
    return client.get("/", headers={**cookie, **headers}).text


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_proxy_that_is_not_trusted_is_named_once(warnings):
    hidden = client()
    for _ in range(3):
        assert visit(hidden, **{"X-Forwarded-For": "203.0.113.9"}) == "10.0.0.5"
    (warning,) = warnings()
    assert warning.startswith("10.0.0.5 sends X-Forwarded-For and is not in trusted_proxies")


@pytest.mark.parametrize("trusted", [["10.0.0.5"], ["10.0.0.0/8"], ["*"]])
def test_a_trusted_proxy_tells_the_addresses_of_its_visitors(warnings, trusted):
    known = client(trusted_proxies=trusted)
    assert [visit(known, **{"X-Forwarded-For": f"203.0.113.{n}"}) for n in range(12)] == [f"203.0.113.{n}" for n in range(12)]
    assert warnings() == []


def test_many_visitors_of_one_address_are_suspected_to_be_behind_a_proxy(warnings):
    one = client()
    for _ in range(MANY_VISITORS - 1):
        visit(one)
    visit(one, "x" * 32)
    visit(one, "x" * 32)
    (warning,) = warnings()
    assert warning.startswith("All visitors come from the address 10.0.0.5.")


def test_one_visitor_and_several_addresses_are_no_sign_of_a_proxy(warnings):
    same = client()
    for _ in range(3 * MANY_VISITORS):
        visit(same, "x" * 32)
    assert warnings() == []


@pytest.mark.parametrize("value", ["10.0.0.300", "proxy.example", "10.0.0.1/8"])
def test_what_is_no_address_is_refused(value):
    with pytest.raises(ValueError, match="trusted_proxies"):
        Settings(trusted_proxies=[value])
