"""What the pages share: static files, bodies of a limited size, forms, same-origin checks, redirects to our own paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from mllama_demo.web.requests import StaticAssets, is_same_origin, local_path, read_body, read_form

LIMIT = 10


async def body(request: Request) -> Response:
    return PlainTextResponse(await read_body(request, LIMIT))


async def form(request: Request) -> Response:
    return JSONResponse(await read_form(request))


async def origin(request: Request) -> Response:
    return JSONResponse(is_same_origin(request))


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "page.js").write_text("let x;")
    (tmp_path / "secret.txt").write_text("secret")
    routes = [Route(f"/{route.__name__}", route, methods=["POST"]) for route in (body, form, origin)]
    return TestClient(Starlette(routes=[*routes, Mount("/static", StaticAssets(directory=folder))]))


def test_a_static_file_is_revalidated_each_time(client: TestClient):
    first = client.get("/static/page.js")
    assert (first.status_code, first.text) == (200, "let x;")
    assert first.headers["content-type"].startswith(("text/javascript", "application/javascript"))
    again = client.get("/static/page.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == again.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["missing.js", "", "../secret.txt", "%2e%2e/secret.txt", "%00", "x" * 5000])
def test_nothing_else_is_a_static_file(client: TestClient, path: str):
    assert client.get(f"/static/{path}").status_code == 404


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(0, 200), (LIMIT, 200), (LIMIT + 1, 413)])
def test_a_body_is_read_up_to_the_limit(client: TestClient, size: int, status: int, chunked: bool):
    content = b"x" * size
    answer = client.post("/body", content=(content[i : i + 4] for i in range(0, size, 4)) if chunked else content)
    assert answer.status_code == status
    assert answer.content == content if status == 200 else b"at most 10 bytes" in answer.content


@pytest.mark.parametrize(
    ("part", "count", "refusal"),
    [(b"1,", 8, ""), (b"1,", 9, "8 values and commas"), (b"[]", 2, ""), (b"{}", 3, "2 lists, objects and brackets")],
)
def test_the_values_of_a_body_are_counted_over_all_its_parts(part: bytes, count: int, refusal: str):
    async def eight(request: Request) -> Response:
        return PlainTextResponse(await read_body(request, 1000, 8))

    client = TestClient(Starlette(routes=[Route("/", eight, methods=["POST"])]))
    answer = client.post("/", content=(part for _ in range(count)))
    assert answer.status_code == (413 if refusal else 200)
    assert refusal in answer.text


def test_a_form_gives_the_first_value_of_each_field(client: TestClient):
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    assert client.post("/form", content="a=1&a=2&b=&c=%C3%A9", headers=headers).json() == {"a": "1", "b": "", "c": "é"}
    for broken in (b"\xff", b"a=" + b"x" * 20_000, b"&".join([b"a=1"] * 11)):
        assert client.post("/form", content=broken, headers=headers).json() is None
    assert client.post("/form", content="a=1", headers={"Content-Type": "text/plain"}).json() is None


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({}, True),
        ({"Origin": "http://testserver"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}, True),
        ({"Origin": "http://other.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"}, False),
        # A proxy that sends the host of the server behind it.
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://demo.example", "Host": "10.0.0.7:7860"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://10.0.0.7:7860", "Host": "10.0.0.7:7860"}, False),
        ({"Origin": "http://demo.example", "Host": "10.0.0.7:7860", "X-Forwarded-Host": "demo.example"}, True),
        ({"Origin": "http://demo.example", "Host": "10.0.0.7:7860"}, False),
        ({"Origin": "http://other.example", "Host": "10.0.0.7:7860", "X-Forwarded-Host": "demo.example"}, False),
    ],
)
def test_a_request_of_another_site_is_recognised(client: TestClient, headers: dict[str, str], same: bool):
    assert client.post("/origin", headers=headers).json() is same


@pytest.mark.parametrize(("address", "path"), [("/a?b=c", "/a?b=c"), (None, "/"), ("//evil.example", "/"), ("/\\evil", "/")])
def test_a_redirect_leads_to_a_path_of_this_server(address: str | None, path: str):
    assert local_path(address) == path
