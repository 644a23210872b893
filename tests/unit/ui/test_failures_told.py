"""Failures on the page: what the visitor reads, with the id of the request, and what the log has for the operator."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from sqlalchemy import event

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest
from mllama_demo.runtime import failures
from mllama_demo.runtime.logs import REQUEST_ID
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.ui.page_update import failures_told


@pytest.fixture
def full(tmp_path: Path) -> ConversationStore:
    """The store of a database that cannot grow by a page, as on a full disk."""
    failures._logged.clear()
    database = Database(f"sqlite:///{tmp_path / 'conversations.sqlite3'}")
    store = ConversationStore(database)

    @event.listens_for(database._engine, "begin")
    def limit(connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")

    return store


def test_a_full_disk_is_told_to_the_visitor_and_to_the_operator(full, caplog):
    sentences: list[str] = []
    with caplog.at_level(logging.ERROR), failures_told(sentences.append):
        full.save("owner", Conversation((Message("user", "x" * 10**6),)))
    assert sentences == ["The database of conversations does not answer; try again later."]
    (record,) = (record for record in caplog.records if record.name == failures.__name__)
    assert "database or disk is full" in record.getMessage()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BackendBusy("The demo is busy."), "The demo is busy. (Request 5f1c)"),
        (BackendUnavailable("The model is down."), "The model is down. (Request 5f1c)"),
        (RuntimeError("a bug"), "Something went wrong in the demo; its log has the cause. (Request 5f1c)"),
        (BadRequest("Type a question."), "Type a question."),
    ],
    ids=["busy", "down", "bug", "own mistake"],
)
def test_a_failure_that_is_not_the_visitors_own_has_the_id_of_the_request(error, expected, request):
    token = REQUEST_ID.set("5f1c")
    request.addfinalizer(lambda: REQUEST_ID.reset(token))
    sentences: list[str] = []
    with failures_told(sentences.append):
        raise error
    assert sentences == [expected]
