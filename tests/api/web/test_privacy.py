"""Conversations are readable for their owner only: the server checks the ids and file paths of every request."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image

from tests.support.program import Program, visitor
from tests.support.raw_gradio_client import RawChat

pytestmark = pytest.mark.timeout(300)

SECRET = "The password of the garden gate is xylophone"


@pytest.fixture
def alice(server: Program) -> Iterator[RawChat]:
    """A visitor whose conversation has a secret."""
    alice = RawChat(server)
    assert SECRET in alice.ask(SECRET)
    yield alice
    alice.http.close()


@pytest.fixture
def mallory(server: Program) -> Iterator[RawChat]:
    mallory = RawChat(server)
    yield mallory
    mallory.http.close()


def test_a_visitor_can_open_her_own_conversation(alice: RawChat):
    (id,) = alice.conversations()
    assert SECRET in alice.open(id)


def test_no_handler_shows_or_changes_a_conversation_of_another_visitor(alice: RawChat, mallory: RawChat):
    (id,) = alice.conversations()
    before = alice.open(id)
    assert mallory.conversations() == []
    values = {
        mallory.conversation_field: id,
        mallory.field("chat-input"): {"text": "Go on", "files": []},
    }
    forged = {"id": id, "title": "Taken over", "kind": "json", "number": 0, "text": "Forged", "index": 0, "value": "Forged"}
    for handler in mallory.handlers:
        for event_data in (None, forged):
            answer = mallory.call(handler, values, query=f"c={id}", event_data=event_data)
            assert SECRET not in answer, handler["targets"]
    assert SECRET not in mallory.open(id)
    assert alice.conversations() == [id]
    after = alice.open(id)
    assert SECRET in after
    assert after.count('"role"') == before.count('"role"')
    assert "Taken over" not in after
    assert "Forged" not in after


def test_an_invented_id_creates_no_conversation(mallory: RawChat):
    answer = mallory.ask("Hello", conversation="an-id-of-my-own")
    assert "There is no conversation" in answer
    assert mallory.conversations() == []


@pytest.mark.parametrize("place", ["database", "/etc/passwd"])
def test_a_file_of_the_server_cannot_be_sent_as_an_image(server: Program, mallory: RawChat, place: str):
    path = str(server.home / "data" / "conversations.sqlite3") if place == "database" else place
    file = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    answer = mallory.ask("What is in this image?", files=[file])
    assert "must be uploaded before it is used" in answer
    assert mallory.conversations() == []


def status_of(server: Program, target: str) -> int:
    """The status of a GET request with exactly this target."""
    with closing(http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)) as connection:
        connection.request("GET", target)
        return connection.getresponse().status


def test_a_preview_is_loaded_by_its_owner_alone(server: Program, alice: RawChat, mallory: RawChat, tmp_path: Path):
    Image.new("RGB", (40, 30), "green").save(path := tmp_path / "secret.png")
    with path.open("rb") as file:
        [uploaded] = alice.http.post(f"{server.url}/gradio_api/upload", files={"files": file}, timeout=60).json()
    meta = {"path": uploaded, "orig_name": "secret.png", "mime_type": "image/png", "meta": {"_type": "gradio.FileData"}}
    answer = alice.ask("What is this?", files=[meta])
    [address] = set(re.findall(r"gradio_api/file=[^\s\"]+/shown/[0-9a-f]{64}/preview\.webp", answer))
    address = f"/{address}"
    loaded = alice.http.get(server.url + address, timeout=60)
    assert (loaded.status_code, loaded.headers["content-type"]) == (200, "image/webp")
    assert "no-cache" in loaded.headers["cache-control"]
    with visitor() as nobody:
        for other in (mallory.http, nobody):
            assert other.get(server.url + address, timeout=60).status_code == 404
    # HTTP libraries would change these addresses before they send them.
    for written in ("/shown//", "/shown/../shown/", "/./shown/", "//shown/", "/shown/%2e%2e/shown/", "/shown/%2F"):
        assert status_of(server, address.replace("/shown/", written)) == 404, written
    assert status_of(server, address.replace("/preview", "//preview")) == 404


def test_the_preview_of_an_upload_is_loaded_by_who_uploaded_it_alone(
    server: Program, alice: RawChat, mallory: RawChat, tmp_path: Path
):
    Image.new("RGB", (40, 30), "blue").save(path := tmp_path / "not sent.png")
    with path.open("rb") as file:
        [uploaded] = alice.http.post(f"{server.url}/gradio_api/upload", files={"files": file}, timeout=60).json()
    meta = {"path": uploaded, "orig_name": "not sent.png", "mime_type": "image/png", "meta": {"_type": "gradio.FileData"}}
    notes = alice.field("attachment-notes")
    [check] = [handler for handler in alice.handlers if notes in handler["outputs"]]
    answer = alice.call(check, {alice.field("chat-input"): {"text": "", "files": [meta]}})
    [address] = set(re.findall(r"gradio_api/file=[^\s\"'\\]+/uploaded/[0-9a-f]{64}/preview\.webp", answer))
    loaded = alice.http.get(f"{server.url}/{address}", timeout=60)
    assert (loaded.status_code, loaded.headers["content-type"]) == (200, "image/webp")
    with visitor() as nobody:
        for other in (mallory.http, nobody):
            assert other.get(f"{server.url}/{address}", timeout=60).status_code == 404
    for written in ("/uploaded//", "/uploaded/../uploaded/", "/uploaded/%2e%2e/uploaded/"):
        assert status_of(server, f"/{address}".replace("/uploaded/", written)) == 404, written


def test_a_file_to_attach_is_not_served_from_the_folder_of_the_program(server: Program, alice: RawChat, tmp_path: Path):
    Image.new("RGB", (40, 30), "red").save(path := tmp_path / "taken back.png")
    with path.open("rb") as file:
        [uploaded] = alice.http.post(f"{server.url}/gradio_api/upload", files={"files": file}, timeout=60).json()
    meta = {"path": uploaded, "orig_name": "taken back.png", "mime_type": "image/png", "meta": {"_type": "gradio.FileData"}}
    alice.ask("What is this?", files=[meta])
    [undo] = [handler for handler in alice.handlers if any(event == "undo" for _, event in handler["targets"])]
    for conversation in alice.conversations():
        alice.call(undo, {alice.conversation_field: conversation})
    [attached] = server.home.rglob("attached/*/*.png")
    for path in (attached, f"{attached.parent}/./{attached.name}"):
        assert status_of(server, f"/gradio_api/file={quote(str(path))}") == 404


def test_the_database_cannot_be_downloaded(server: Program, mallory: RawChat):
    path = server.home / "data" / "conversations.sqlite3"
    assert path.exists()
    for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
        answer = mallory.http.get(f"{server.url}{prefix}{path}", timeout=60)
        assert answer.status_code in (403, 404)
        assert b"SQLite" not in answer.content
