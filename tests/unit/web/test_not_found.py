"""Unknown addresses: a page for people, JSON for programs."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.testclient import TestClient

from mllama_demo.config.branding import load_brand
from mllama_demo.config.settings import Settings
from mllama_demo.web.not_found import NotFoundPages

BROWSER = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.add_middleware(NotFoundPages, load_brand(Settings(title="Harbour Fair")))

    @app.get("/share/{token}", response_class=HTMLResponse)
    async def share(token: str) -> HTMLResponse:
        return HTMLResponse("no longer shared", 404)

    @app.get("/here")
    async def here() -> dict[str, bool]:
        return {"here": True}

    return TestClient(app)


def test_a_browser_gets_a_page_with_the_way_back(client: TestClient) -> None:
    response = client.get("/no/such/page", headers=BROWSER)
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")
    assert "There is no such page" in response.text
    assert "Harbour Fair" in response.text
    assert 'href="../../"' in response.text
    assert int(response.headers["content-length"]) == len(response.content)


@pytest.mark.parametrize(
    ("method", "path", "accept"),
    [("GET", "/no", "*/*"), ("GET", "/v1/no", "text/html"), ("POST", "/no", "text/html"), ("GET", "/no", "application/json")],
)
def test_programs_get_json(client: TestClient, method: str, path: str, accept: str) -> None:
    response = client.request(method, path, headers={"Accept": accept})
    assert response.status_code == 404
    assert response.json() == {"detail": "Not Found"}


def test_other_responses_stay_as_they_are(client: TestClient) -> None:
    assert client.get("/here", headers=BROWSER).json() == {"here": True}
    assert client.get("/share/x", headers=BROWSER).text == "no longer shared", "a page that a route sends"
