"""The served HTML of the chat page."""

from __future__ import annotations

import gradio as gr
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mllama_demo.ui.gradio_patches.page_html import PageHtml
from mllama_demo.ui.opening import opening_head

HEAD = "<script>first()</script>"


def page_of(app: FastAPI, accept_encoding: str = "identity"):
    with TestClient(app) as client:
        return client.get("/", headers={"Accept": "text/html", "Accept-Encoding": accept_encoding})


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    with gr.Blocks() as demo:
        gr.Textbox()
    app.add_middleware(PageHtml, 'Fish & "Chips"', "Ask about a picture.", HEAD)
    return gr.mount_gradio_app(app, demo, path="/", head="<script>late()</script>")


def test_gradio_adds_the_head_only_by_javascript(app: FastAPI) -> None:
    head = page_of(app).text.partition("</head>")[0]
    assert head.index(HEAD) < head.index("window.gradio_config"), "the head of this demo comes before Gradio's scripts"
    assert "<script>late()" not in head, "Gradio's own argument is there only as a text in its configuration"
    assert "late()" in head


def test_the_page_has_its_title_and_names_no_other_host_in_its_preview(app: FastAPI) -> None:
    head = page_of(app).text.partition("</head>")[0]
    assert "<title>Fish &amp; &quot;Chips&quot;</title>" in head
    assert '<meta property="og:title" content="Fish &amp; &quot;Chips&quot;">' in head
    assert "twitter:" not in head
    assert "raw.githubusercontent.com" not in head
    assert "gradio.app/" not in head.partition("window.gradio_config")[0]


@pytest.mark.slow
@pytest.mark.parametrize(("accepted", "encoding"), [("gzip, deflate, br", "br"), ("gzip, deflate", "gzip"), ("identity", None)])
def test_the_page_is_compressed_as_the_browser_accepts_it(app: FastAPI, accepted: str, encoding: str | None) -> None:
    response = page_of(app, accepted)
    assert response.headers.get("content-encoding") == encoding
    assert response.headers["vary"] == "Accept-Encoding"
    assert HEAD in response.text
    if encoding:
        assert int(response.headers["content-length"]) < len(response.content) / 2


def test_other_responses_of_the_address_stay_as_they_are() -> None:
    app = FastAPI()
    app.add_middleware(PageHtml, "Title", "Sentence.", HEAD)

    @app.get("/")
    async def refuse() -> dict[str, str]:
        return {"detail": "no"}

    with TestClient(app) as client:
        assert client.get("/").json() == {"detail": "no"}
        assert client.get("/elsewhere").status_code == 404


def test_no_character_of_a_title_leaves_the_opening_page() -> None:
    head = opening_head("</style><script>\"\\\n'", "#c2410c")
    assert head.count("<script>") == 1
    assert head.count("</style>") == 1
    assert 'content: "\\00003c\\00002fstyle\\00003e' in head
