"""Conversations are readable for their owner only: the server checks the ids and file paths of every request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.program import Program
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
    assert "process_completed" in answer
    assert mallory.conversations() == []


def test_the_database_cannot_be_downloaded(server: Program, mallory: RawChat):
    path = server.home / "data" / "conversations.sqlite3"
    assert path.exists()
    for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
        answer = mallory.http.get(f"{server.url}{prefix}{path}", timeout=60)
        assert answer.status_code in (403, 404)
        assert b"SQLite" not in answer.content
