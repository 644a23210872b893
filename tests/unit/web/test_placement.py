"""The place of the demo: the path of a proxy, other demos on other ports, and frames of other sites."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from mllama_demo.config.settings import Settings
from mllama_demo.web.placement import Placement
from tests.support.paths import ROOT


async def seen(request: Request) -> Response:
    found = {"path": request.url.path, "cookies": request.cookies, "host": request.headers["host"]}
    return JSONResponse(found, headers={"Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; img-src data:"})


async def sign_in(request: Request) -> Response:
    response = RedirectResponse("/seen?next=1", 303)
    response.set_cookie("mllama_session", request.query_params["token"], httponly=True, samesite="lax")
    response.set_cookie("mllama_admin", "key", path="/admin")
    response.set_cookie("mllama_visitor", "me")
    return response


async def sign_out(request: Request) -> Response:
    response = RedirectResponse("./", 303)
    response.delete_cookie("mllama_session")
    return response


def client(base_url: str = "http://demo.example", **options: Any) -> TestClient:
    routes = [Route(f"/{route.__name__}", route) for route in (seen, sign_in, sign_out)]
    return TestClient(Placement(Starlette(routes=routes), Settings(**options)), base_url=base_url, follow_redirects=False)


# --- a path ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["/demo", "/demo/"])
@pytest.mark.parametrize("sent", ["/demo/seen", "/seen"])
def test_a_proxy_may_strip_the_path_or_leave_it(given, sent):
    assert client(root_path=given).get(sent).json()["path"] == "/seen"


def test_what_leaves_begins_with_the_path():
    answer = client(root_path="/a/demo").get("/sign_in?token=x")
    assert answer.headers["location"] == "/a/demo/seen?next=1"
    cookies = [cookie.split("; ") for cookie in answer.headers.get_list("set-cookie")]
    assert [next(part for part in parts if part.startswith("Path=")) for parts in cookies] == [
        "Path=/a/demo",
        "Path=/a/demo/admin",
        "Path=/a/demo",
    ]
    assert client(root_path="/a/demo").get("/sign_out").headers["location"] == "./"


def test_the_frameworks_own_redirect_keeps_the_path():
    moved = client(root_path="/demo").get("/demo/seen/")
    assert (moved.status_code, moved.headers["location"]) == (307, "/demo/seen")
    assert client().get("/seen/").headers["location"] == "http://demo.example/seen"


def test_a_path_that_only_begins_like_it_is_another():
    assert client(root_path="/demo").get("/demonstration/seen").status_code == 404
    assert client(root_path="/demo").get("/demo?a=b").headers["location"] == "/demo/?a=b"


# --- ports -----------------------------------------------------------------------------------------------------------------


def test_two_demos_on_one_host_keep_their_own_sessions():
    jar: dict[str, str] = {}
    demos = {port: client(port=port) for port in (7860, 7870)}
    for port, demo in demos.items():
        jar |= dict(demo.get(f"/sign_in?token=of-{port}").cookies)
    for port, demo in demos.items():
        header = {"Cookie": "; ".join(f"{name}={value}" for name, value in jar.items())}
        assert demo.get("/seen", headers=header).json()["cookies"]["mllama_session"] == f"of-{port}"
    out = demos[7870].get("/sign_out").headers["set-cookie"]
    assert out.startswith("mllama_session_7870=")


def test_a_session_of_another_demo_is_none_of_ours():
    cookies = client(port=7870).get("/seen", headers={"Cookie": "mllama_session=of-7860; mllama_visitor=me"}).json()["cookies"]
    assert cookies == {"mllama_visitor": "me"}


def test_demos_below_two_paths_of_one_host_have_own_names():
    (first, *_), (second, *_) = (
        client(root_path=path).get("/sign_in?token=x").headers.get_list("set-cookie") for path in ("/a", "/b")
    )
    assert (first.split("=")[0], second.split("=")[0]) == ("mllama_session_a", "mllama_session_b")


# --- frames ----------------------------------------------------------------------------------------------------------------


def test_no_other_site_may_frame_a_page_unless_it_is_named():
    assert "frame-ancestors 'none';" in client().get("/seen").headers["content-security-policy"]
    policy = client(allowed_frame_ancestors=["https://intranet.example", "https://*.corp.example:8443"]).get("/seen").headers
    assert policy["content-security-policy"] == (
        "default-src 'self'; frame-ancestors 'self' https://intranet.example https://*.corp.example:8443; img-src data:"
    )


def test_the_cookies_of_a_frame_are_sent_there_over_https_alone():
    options = {"allowed_frame_ancestors": ["https://intranet.example"]}
    for cookie in client("https://demo.example", **options).get("/sign_in?token=x").headers.get_list("set-cookie"):
        assert cookie.endswith("; Secure; SameSite=None; Partitioned")
        assert cookie.lower().count("samesite") == cookie.count("Secure") == 1
    for cookie in client("http://demo.example", **options).get("/sign_in?token=x").headers.get_list("set-cookie"):
        assert "SameSite=None" not in cookie


# --- the host --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "host"),
    [
        ({}, "10.0.0.7:7860"),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://demo.example"}, "demo.example"),
        ({"Sec-Fetch-Site": "same-origin", "Referer": "https://demo.example:8443/a"}, "demo.example:8443"),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, "10.0.0.7:7860"),
        ({"Origin": "https://evil.example"}, "10.0.0.7:7860"),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, "10.0.0.7:7860"),
    ],
)
def test_a_page_of_the_same_origin_tells_its_host(headers, host):
    assert client().get("/seen", headers={"Host": "10.0.0.7:7860", **headers}).json()["host"] == host


def test_no_script_requests_an_absolute_path() -> None:
    """Below a prefix such as /demo it would ask another program."""
    scripts = list((ROOT / "mllama_demo").glob("**/static/**/*.js"))
    assert any(script.name == "admin.js" for script in scripts)
    absolute = re.compile(r"""(fetch|EventSource|sendBeacon|assign|replace|Worker)\(\s*["'`]/""")
    found = [f"{script.name}: {found[0]}" for script in scripts for found in absolute.finditer(script.read_text("utf-8"))]
    assert found == []
