"""Requests to Gradio's routes that no page sends: each is refused with a sentence. None fetches anything or logs a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from mllama_demo.config.branding import ICON_FILE, load_brand
from mllama_demo.config.settings import Settings
from mllama_demo.ui.gradio_patches.checked_requests import NO_ADDRESSES, NOT_UPLOADED
from mllama_demo.web.errors import INTERNAL_ERROR
from tests.support.program import Program, running
from tests.support.raw_gradio_client import RawChat
from tests.support.web_server import Server, png

FILE = {"meta": {"_type": "gradio.FileData"}, "orig_name": "x.png", "mime_type": "image/png"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with running(tmp_path_factory.mktemp("gradio")) as program:  # a traceback in its log fails the module
        program.wait_ready()
        yield program


@pytest.fixture(scope="module")
def chat(program: Program) -> RawChat:
    return RawChat(program)


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    server = Server()
    server.page("/x.png", png())
    yield server
    server.close()


def error_in(answer: str) -> str:
    return json.loads(answer.splitlines()[-1])["output"]["error"]


def test_every_page_has_the_icon_of_the_demo(program: Program) -> None:
    icon = f'<link rel="icon" href="{load_brand(Settings()).icon}">'
    for page in ("/", "/explore", "/present", "/laptop-model"):
        assert icon in requests.get(program.url + page, timeout=60).text, page
    assert requests.get(f"{program.url}/favicon.ico", timeout=60).content == ICON_FILE.read_bytes()
    assert "logo_nosize" not in requests.get(f"{program.url}/manifest.json", timeout=60).text


def test_a_forged_file_is_refused_and_nothing_is_fetched(chat: RawChat, elsewhere: Server) -> None:
    """On every event of the page, whatever the component, and however deep the file lies in its value."""
    for host in (elsewhere.url("/x.png", "127.0.0.1"), elsewhere.url("/x.png"), "http://169.254.169.254/latest/meta-data"):
        for handler in (handler for handler in chat.handlers if handler["inputs"]):
            for forged in (
                {**FILE, "path": host},
                {"files": [{**FILE, "path": host}], "text": ""},
                [{"file": {**FILE, "path": host}}],
            ):
                answer = chat.begin(handler, dict.fromkeys(handler["inputs"], forged))
                assert (answer.status_code, answer.json()["detail"]) == (400, NO_ADDRESSES)
    assert elsewhere.seen == []


@pytest.mark.parametrize(
    "path", ["HTTP://example.com/a", " http://example.com", "//example.com/a", "ftp://a/b", "file:///etc/passwd"]
)
def test_an_address_in_any_form_is_no_file(chat: RawChat, path: str) -> None:
    question = {"text": "", "files": [{**FILE, "path": path}]}
    assert chat.begin(chat.ask_handler, {chat.field("chat-input"): question}).json()["detail"] == NO_ADDRESSES


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/etc/passwd", "passwd"),
        ("../../etc/passwd", "passwd"),
        ("app.py", "app.py"),
        ("\0", "image"),
        ("x" * 5000, "x" * 80),
        ("data/conversations.sqlite3", "conversations.sqlite3"),
    ],
)
def test_a_file_that_was_not_uploaded_is_refused_without_a_path_of_the_server(
    program: Program, chat: RawChat, path: str, name: str
) -> None:
    """Nor is it copied to where visitors download. The last one is the database of all conversations."""
    for handler in (handler for handler in chat.handlers if handler["inputs"]):
        answer = chat.begin(handler, {id: {**FILE, "path": path} for id in handler["inputs"]})
        assert (answer.status_code, answer.json()["detail"]) == (400, NOT_UPLOADED.format(name))
        assert str(program.home) not in answer.text
    assert not [*program.home.glob("gradio/**/passwd"), *program.home.glob("gradio/**/*.sqlite3")]


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:{port}/x.png", "https://127.0.0.1:{port}/x.png", "HTTP://127.0.0.1:{port}/"]
)
@pytest.mark.parametrize("route", ["file=", "file/", "proxy=", "stream/"])
def test_no_route_fetches_an_address(chat: RawChat, program: Program, elsewhere: Server, route: str, address: str) -> None:
    answer = chat.http.get(f"{program.url}/gradio_api/{route}{address.format(port=elsewhere.port)}", timeout=60)
    assert answer.status_code == 404
    assert elsewhere.seen == []


@pytest.mark.parametrize(
    "value", [17, "text", [], {"text": {}}, {"files": 5}, {"files": [{"path": 5}]}, None, True, {"text": "a", "files": None}]
)
def test_a_value_of_the_wrong_type_is_refused_or_read(chat: RawChat, value: Any) -> None:
    answer = chat.call(chat.ask_handler, {chat.field("chat-input"): value})
    last = json.loads(answer.splitlines()[-1])
    assert last["success"] or last["output"]["error"] == "A value of this event has the wrong type."


def test_an_event_without_its_data_is_refused_or_answered(chat: RawChat) -> None:
    """Also where the page would say which line of a list was selected. The fixture fails for a traceback in the log."""
    for handler in chat.handlers:
        answer = chat.call(handler, {}, event_data={"index": "x", "value": 0, "liked": []} if handler["id"] % 2 else None)
        assert INTERNAL_ERROR not in answer, handler


@pytest.mark.parametrize("value", [None, "x" * 100_000, "\0\ud800", 10**30, 1e300, {"a": []}], ids=ascii)
def test_every_event_takes_any_values(chat: RawChat, value: Any) -> None:
    def call(handler: dict[str, Any]) -> str:
        return chat.call(handler, dict.fromkeys(handler["inputs"], value), event_data={"index": 0, "value": value})

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(call, chat.handlers))
    assert not [answer for answer in answers if INTERNAL_ERROR in answer]


def test_half_a_character_is_replaced_and_the_question_is_answered(chat: RawChat) -> None:
    answer = chat.ask("Hi \ud83d there \U0001f600")
    assert "Hi \ufffd there \U0001f600" in answer
    assert chat.conversations()


def test_a_value_out_of_range_keeps_its_sentence(chat: RawChat) -> None:
    slider = next(id for id in chat.ask_handler["inputs"] if chat._components[id]["type"] == "slider")
    assert "greater than" in error_in(chat.call(chat.ask_handler, {slider: 10**9}))


EVENT = {"data": [], "fn_index": 0, "session_hash": "a"}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "an unknown event": ("queue/join", {"json": {**EVENT, "fn_index": 99999}}),
    "an event by name": ("run/predict", {"json": {"data": []}}),
    "an event that is true": ("run/predict", {"json": {**EVENT, "fn_index": True}}),
    "an event that is a float": ("queue/join", {"json": {**EVENT, "fn_index": 0.5}}),
    "an event with too many values": ("queue/join", {"json": {**EVENT, "data": [1] * 1000}}),
    "an event without values": ("queue/join", {"json": {"fn_index": 0, "session_hash": "a"}}),
    "a session of megabytes": ("queue/join", {"json": {**EVENT, "session_hash": "a" * 1_000_000}}),
    "a body that is no JSON": ("queue/join", {"data": b"{"}),
    "a body that is a list": ("cancel", {"json": []}),
    "a body that is nested deeply": ("queue/join", {"data": b"[" * 100_000 + b"]" * 100_000}),
    "a long boundary": ("upload", {"data": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=" + "a" * 5000}}),
    "no boundary": ("upload", {"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
    "a boundary that is not there": ("upload", {"data": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}),
    "an upload that is no form": ("upload", {"json": {}}),
    "a cancellation without an event": ("cancel", {"json": {"session_hash": "a"}}),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_a_malformed_request_is_refused_with_a_sentence(chat: RawChat, program: Program, what: str) -> None:
    route, content = REQUESTS[what]
    answer = chat.http.post(f"{program.url}/gradio_api/{route}", timeout=60, **content)
    assert 400 <= answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text
    assert str(program.home) not in answer.text


def test_a_body_of_an_event_has_a_limit(chat: RawChat, program: Program) -> None:
    answer = chat.http.post(f"{program.url}/gradio_api/queue/join", data=b"[" + b" " * (3 * 2**20) + b"]", timeout=60)
    assert (answer.status_code, answer.json()["detail"]) == (413, "The request is too large; at most 2 MiB are allowed.")


def test_a_session_that_does_not_exist_is_named_in_its_stream(chat: RawChat, program: Program) -> None:
    answer = chat.http.get(f"{program.url}/gradio_api/queue/data?session_hash=nobody", timeout=60)
    assert '"session_not_found":true' in answer.text


def test_routes_that_the_page_does_not_use_are_closed(chat: RawChat, program: Program) -> None:
    for route in ("component_server", "process_recording", "vibe-edit", "call/predict", "call/v2/predict", "api/predict"):
        assert chat.http.post(f"{program.url}/gradio_api/{route}", json={}, timeout=60).status_code == 404, route
    for route in ("gradio_api/deep_link", "gradio_api/runs", "monitoring", "monitoring/summary", "gradio_api/dev/reload"):
        assert chat.http.get(f"{program.url}/{route}", timeout=60).status_code == 404, route


def test_many_ranges_of_a_file_are_ignored(chat: RawChat, program: Program) -> None:
    sent = chat.http.post(f"{program.url}/gradio_api/upload", files={"files": ("a.png", png())}, timeout=60).json()[0]
    ranges = {"Range": "bytes=" + ",".join(f"{i}-{i}" for i in range(5000))}
    answer = chat.http.get(f"{program.url}/gradio_api/file={sent}", headers=ranges, timeout=60)
    assert (answer.status_code, answer.content) == (200, png())
