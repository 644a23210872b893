"""What is checked before Gradio gets a request; tests/api/ui/test_gradio_requests.py has the rest, with the running program."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from fastapi import FastAPI
from gradio.utils import get_upload_folder
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from mllama_demo.ui.gradio_patches.checked_requests import (
    CANNOT_STORE,
    MAX_FILES,
    MIN_FREE_DISK_BYTES,
    CheckedRequests,
    mount_checked,
)


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = FastAPI()
    with gr.Blocks() as demo:
        gr.Textbox().submit(lambda text: text, None, None)
    mount_checked(app, demo)
    with TestClient(app) as client:
        yield client


def upload(client: TestClient) -> int:
    return client.post("/gradio_api/upload", files={"files": ("a.txt", b"hello")}).status_code


def test_an_upload_is_refused_when_the_disk_is_nearly_full(client: TestClient, monkeypatch) -> None:
    assert upload(client) == 200
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=MIN_FREE_DISK_BYTES - 1))
    assert upload(client) == 503


def test_a_failure_of_gradio_becomes_a_sentence_and_a_4xx() -> None:
    """Whether Gradio raises, or answers 500 first and raises then."""

    async def raises(scope, receive, send) -> None:
        raise KeyError(99999)

    async def answers_and_raises(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"Traceback: /root/secret"})
        raise KeyError(99999)

    for app in (raises, answers_and_raises):
        answer = TestClient(CheckedRequests(app, gr.Blocks())).get("/theme.css")
        assert (answer.status_code, "malformed" in answer.json()["detail"]) == (400, True)
        assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("path", "name"),
    [("{elsewhere}/my dog.png", "my dog.png"), ("C:\\gradio\\dog.png", "dog.png"), ("/tmp/<b>\n&.png", "&lt;b&gt; &amp;.png")],
)
def test_a_file_outside_of_the_folder_is_refused_by_its_name_among_uploaded_ones(
    client: TestClient, tmp_path: Path, path: str, name: str
) -> None:
    """For example one of a restored draft, which was uploaded before the last start of the server."""
    uploaded = f"{get_upload_folder()}/abc/cat.png"
    files = [{"path": uploaded}, {"path": path.format(elsewhere=tmp_path)}, {"path": uploaded}]
    answer = client.post("/gradio_api/queue/join", json={"data": [{"text": "", "files": files}], "fn_index": 0})
    sentence = f"{name} must be uploaded before it is used; please add it again."
    assert (answer.status_code, answer.json()["detail"], answer.json()["error"]) == (400, sentence, sentence)


@pytest.mark.parametrize(
    "paths", [["x"] * 40_000, [f"x{i}" for i in range(40_000)], ["a/" * 500_000]], ids=["the same", "different", "long"]
)
def test_many_and_long_paths_take_few_system_calls(client: TestClient, monkeypatch, paths: list[str]) -> None:
    """They are checked on the event loop, which every visitor waits for."""
    folder, resolved = get_upload_folder(), []
    resolve = Path.resolve

    def counted(path: Path, strict: bool = False) -> Path:
        resolved.append(len(path.parts))
        return resolve(path, strict)

    monkeypatch.setattr(Path, "resolve", counted)
    event = {"data": [[{"path": f"{folder}/{path}"} for path in paths]], "fn_index": 0, "session_hash": "a"}
    answer = client.post("/gradio_api/queue/join", json=event)
    assert answer.status_code == 400
    assert sum(resolved) < 1000
    if len(set(paths)) > MAX_FILES:
        assert answer.json()["detail"] == "The request names 40000 files; at most 100 are allowed."


@pytest.mark.parametrize(
    ("named", "status"), [("C:/Users/a/b.webp", 200), ("/a/b.webp", 200), ("http://a/b", 404), ("ftp:/a", 404)]
)
def test_a_file_on_a_drive_of_windows_is_no_address(named: str, status: int) -> None:
    client = TestClient(CheckedRequests(JSONResponse({}), gr.Blocks()))
    assert client.get(f"/gradio_api/file={named}").status_code == status


def test_a_disk_that_is_full_is_told_as_a_fault_of_the_server(client: TestClient, monkeypatch, caplog) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gradio.route_utils.NamedTemporaryFile", full)
    client = TestClient(client.app, raise_server_exceptions=False)
    answer = client.post("/gradio_api/upload", files={"files": ("a.txt", b"hello")})
    assert (answer.status_code, answer.json()["detail"]) == (503, CANNOT_STORE)
    assert [record.levelname for record in caplog.records if "No space left" in record.message] == ["ERROR"]
