"""The demo below a path of a real nginx: every page, file, redirect, cookie and stream, over HTTP/1.0, 1.1, 2 and TLS."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

import pytest
import requests

from tests.support.accounts import PASSWORD, users
from tests.support.nginx import PLACES, browser_without_certificates, running_nginx
from tests.support.program import running

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")]
ROOT = "/demo"


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    options = [
        "--users",
        users("anna"),
        "--admins",
        "anna",
        "--root-path",
        ROOT,
        "--api-keys",
        "key-of-the-api",
    ]
    with running(tmp_path_factory.mktemp("behind"), *options) as program:
        program.wait_ready()
        with running_nginx(tmp_path_factory.mktemp("nginx"), program.port, ROOT) as addresses:
            yield addresses


@pytest.fixture(params=PLACES)
def address(request: pytest.FixtureRequest, addresses: dict[str, str]) -> str:
    return addresses[request.param]


@pytest.fixture
def browser() -> Iterator[requests.Session]:
    with browser_without_certificates() as session:
        session.headers["Accept"] = "text/html"
        yield session


def sign_in(browser: requests.Session, address: str, next: str = "/") -> requests.Response:
    form = {"name": "anna", "password": PASSWORD, "next": next}
    return browser.post(
        f"{address}/login", data=form, headers={"Sec-Fetch-Site": "same-origin"}, timeout=60, allow_redirects=False
    )


def test_a_visitor_is_led_to_sign_in_and_back_below_the_path(browser, address):
    led = browser.get(f"{address}/explore?run=x", timeout=60, allow_redirects=False)
    assert (led.status_code, led.headers["location"]) == (303, f"{ROOT}/login?next=/explore%3Frun%3Dx")
    form = browser.get(urljoin(address, led.headers["location"]), timeout=60).text
    assert f'action="{ROOT}/login"' in form
    back = sign_in(browser, address, "/explore?run=x")
    assert (back.status_code, back.headers["location"]) == (303, f"{ROOT}/explore?run=x")
    (cookie,) = (cookie for cookie in browser.cookies if "session" in cookie.name)
    assert cookie.path == ROOT
    assert cookie.secure == address.startswith("https")
    assert browser.get(f"{address}/explore", timeout=60).status_code == 200


def test_every_file_of_every_page_is_below_the_path(browser, address):
    sign_in(browser, address)
    for page in ("/", "/explore", "/present", "/admin", "/logout"):
        html = browser.get(f"{address}{page}", timeout=60).text
        links = re.findall(r'(?:href|src|action)="([^"#]+)"', html)
        for link in links:
            where = urlsplit(urljoin(f"{address}{page}", link))
            if where.scheme in ("data", "https") and where.netloc != urlsplit(address).netloc:
                continue
            assert where.path.startswith(ROOT), f"{page} has {link}"
            if link.endswith((".js", ".css")):
                assert browser.get(where.geturl(), timeout=60).status_code == 200, f"{page} has {link}"


def test_a_stream_comes_piece_by_piece(browser, address):
    body = {"messages": [{"role": "user", "content": "Tell me a story"}], "max_tokens": 200, "stream": True, "ignore_eos": True}
    headers = {"Authorization": "Bearer key-of-the-api"}
    with browser.post(f"{address}/v1/chat/completions", json=body, headers=headers, stream=True, timeout=60) as answer:
        pieces = list(answer.iter_content(None))
    events = [line for line in b"".join(pieces).decode().split("\n\n") if line.startswith("data: {")]
    assert len(events) > 100
    assert len(pieces) > 10, "nginx kept the answer back"
    assert json.loads(events[-1][6:])["choices"][0]["finish_reason"] == "length"


def test_the_address_without_a_slash_leads_to_the_page(browser, addresses):
    address = addresses["plain, path not stripped"]
    moved = browser.get(address, timeout=60, allow_redirects=False)
    assert (moved.status_code, moved.headers["location"]) == (307, f"{ROOT}/")
