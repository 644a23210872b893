"""Every hostile request gets an answer or a named error, at every door of the running program, and nothing is left behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.web.errors import INTERNAL_ERROR
from tests.hostile.image_corpus import CORPUS
from tests.hostile.request_corpus import OPEN, WITH_ACCOUNTS, HostileRequest
from tests.support.accounts import users
from tests.support.openai_clients import post, user
from tests.support.paths import ROOT
from tests.support.program import Program, running, visitor
from tests.support.raw_gradio_client import RawChat
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.timeout(400)
SECRETS = ("Traceback", 'File "', "root:x:", "site-packages", str(ROOT))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program without accounts. It must log no traceback, and end as it should."""
    with running(tmp_path_factory.mktemp("hostile"), "--allowed-media-hosts", "images.example") as program:
        program.wait_ready()
        yield program


@pytest.fixture(scope="module")
def with_accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    options = ("--users", users("anna"), "--admin-key", "the-operators-key")
    with running(tmp_path_factory.mktemp("accounts"), *options) as program:
        program.wait_ready()
        yield program


def exchange(program: Program, request: bytes) -> tuple[int | None, str, str]:
    """The status, the content type and the body of the answer; None for a connection that was closed without one."""
    with socket.create_connection(("127.0.0.1", program.port), timeout=30) as connection:
        with contextlib.suppress(OSError):  # refused before all of it was read
            connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
            return answer.status, answer.headers.get("Content-Type", ""), answer.read().decode("utf-8", "replace")
        except (http.client.HTTPException, OSError):
            return None, "", ""


def fault(program: Program, request: HostileRequest, cookie: str) -> str:
    """What is wrong with the answer to a request; empty if nothing is."""
    status, kind, body = exchange(program, request.as_bytes(cookie))
    if status is None:
        return "" if request.raw else "no answer"
    if status >= 500 or INTERNAL_ERROR in body:
        return f"{status}: {body[:300]}"
    # The answer to an upload is the path that events refer to it by.
    if found := [secret for secret in (*SECRETS, str(program.home)) if secret in body and (status >= 400 or secret in SECRETS)]:
        return f"{status}: the body tells {found}"
    if status >= 400 and kind.startswith("application/json"):
        values = json.loads(body)
        sentence = values["error"]["message"] if isinstance(values.get("error"), dict) else values["detail"]
        # FastAPI lists what is wrong with a body, in Gradio's routes.
        if not sentence or (isinstance(sentence, str) and " " not in sentence):
            return f"{status}: no sentence: {body[:300]}"
    if status >= 400 and not body and request.method != "HEAD":
        return f"{status}: no reason"
    return ""


def faults(program: Program, group: dict[str, HostileRequest]) -> dict[str, str]:
    with visitor() as session:
        session.get(f"{program.url}/explore", timeout=60)
        cookie = "; ".join(f"{one.name}={one.value}" for one in session.cookies)
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda request: fault(program, request, cookie), group.values())
        return {name: one for name, one in zip(group, found, strict=True) if one}


def test_the_corpus_is_large():
    assert sum(map(len, [*OPEN.values(), *WITH_ACCOUNTS.values()])) > 400


@pytest.mark.parametrize("group", OPEN)
def test_every_request_gets_an_answer_or_a_named_error(program: Program, group: str) -> None:
    assert faults(program, OPEN[group]) == {}
    assert program.health()["status"] == "ready"


@pytest.mark.parametrize("group", WITH_ACCOUNTS)
def test_every_request_to_a_program_with_accounts_gets_an_answer_or_a_named_error(with_accounts: Program, group: str) -> None:
    assert faults(with_accounts, WITH_ACCOUNTS[group]) == {}


SEEN = ("heif", "jpeg", "png with a workflow", "gif comment of 500,000 blocks")
REFUSED = ("gif, the first 50%", "an SVG with an entity", "a png that claims 60000 × 60000", "an empty file")


def test_uploaded_images_are_seen_or_refused_by_name(program: Program) -> None:
    """At the page, as a browser sends a file whose type it does not know: with an empty type."""
    for what in (*SEEN, *REFUSED):
        chat = RawChat(program)  # a visitor without conversations, for `ask` looks at all of them
        sent = upload(program, chat, "holiday.jpg", CORPUS[what if what in CORPUS else f"a {what}"]())
        answer = chat.ask("What is this?", files=[{"path": sent, "meta": {"_type": "gradio.FileData"}, "mime_type": ""}])
        assert ("holiday.jpg, " in answer) == (what in SEEN), what
        assert ("The image &quot;holiday.jpg&quot; " in answer) == (what in REFUSED), what


def test_uploaded_conversations_are_imported_or_refused_by_name(program: Program) -> None:
    chat = RawChat(program)
    handler = next(one for one in chat.handlers if any(event == "upload" for _, event in one["targets"]))
    message = {"number": 0, "parent": None, "role": "user", "text": "Hi", "image": None, "shown": True}
    file: dict[str, Any] = {"format": "x", "version": 1, "title": "a", "messages": [message], "images": {}}
    bodies = [json.dumps(file | change) for change in ({}, {"messages": []}, {"title": "\ud800"}, {"messages": [message] * 5000})]
    for body in (*bodies, "", "null", "[" * 100_000, "\0", "{" + '"a":' * 5000):
        sent = upload(program, chat, "conversation.json", body.encode())
        answer = chat.call(handler, {id: {"path": sent, "meta": {"_type": "gradio.FileData"}} for id in handler["inputs"]})
        assert "This file cannot be imported: " in answer, body[:100]


def upload(program: Program, chat: RawChat, name: str, data: bytes) -> str:
    sent = chat.http.post(f"{program.url}/gradio_api/upload", files={"files": (name, data, "")}, timeout=60)
    assert sent.status_code == 200, sent.text
    return sent.json()[0]


def test_slow_clients_delay_nobody(program: Program) -> None:
    """Connections that say nothing, half a header, half a body, or that do not read their answer."""
    beginnings = (
        b"",
        b"GET / HT",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{",
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b",
        b"POST /explore/import HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"POST /explore/import HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc\r\n",
        b"GET /gradio_api/heartbeat/abc HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /assets/ HTTP/1.1\r\nHost: a\r\n\r\n" * 50,
    )
    connections = [socket.create_connection(("127.0.0.1", program.port), timeout=PATIENCE_S) for _ in range(20 * len(beginnings))]
    try:
        for number, connection in enumerate(connections):
            connection.sendall(beginnings[number % len(beginnings)])
        assert program.health()["status"] == "ready"
        answer = post(program, {"messages": [user("What is the capital of Italy?")], "max_tokens": 3})
        assert answer.status_code == 200
    finally:
        for connection in connections:
            connection.close()


def test_nothing_is_half_written(program: Program, with_accounts: Program) -> None:
    """Runs last: the databases are sound, and every conversation in them can be read."""
    for home in (program.home, with_accounts.home):
        file = home / "data" / "conversations.sqlite3"
        with sqlite3.connect(file) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            owners = [owner for (owner,) in connection.execute("SELECT DISTINCT owner FROM conversations")]
        store = ConversationStore(Database(f"sqlite:///{file}"))
        for owner in owners:
            for listed in store.list(owner):
                store.tree(owner, listed.id)
        store.database.close()
