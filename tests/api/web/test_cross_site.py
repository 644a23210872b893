"""Pages of other sites: what they may make a visitor's browser send, and what they may read. And the header Host."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import requests

from mllama_demo.config.settings import Settings
from mllama_demo.web.serve import open_to_all
from tests.support.accounts import users
from tests.support.program import Program, running, visitor
from tests.support.raw_gradio_client import RawChat

pytestmark = pytest.mark.timeout(300)
QUESTION = '{"model": "embedded", "messages": [{"role": "user", "content": "What is 3 + 4?"}]}'
FRIEND = "https://chat.example.com"
ELSEWHERE = [
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
]
POSTS = [
    "/v1/chat/completions",
    "/v1/explore",
    "/explore/run",
    "/gradio_api/queue/join?",
    "/gradio_api/upload",
    "/present/run",
    "/no",
]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A demo for one other site and two names."""
    options = ("--allowed-origins", FRIEND, "--allowed-hosts", "127.0.0.1,demo.example.com")
    with running(tmp_path_factory.mktemp("strict"), *options) as program:
        program.wait_ready()
        yield program


def send(program: Program, method: str, path: str, headers: dict[str, str], body: str = QUESTION) -> requests.Response:
    with visitor() as session:
        plain = {"Content-Type": "text/plain"} if method == "POST" else {}  # what a form or a script may send without asking
        return session.request(method, program.url + path, data=body, headers={**plain, **headers}, timeout=60)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("headers", ELSEWHERE, ids=lambda headers: "+".join(headers.values()))
def test_a_page_of_another_site_can_start_and_change_nothing(server: Program, path: str, headers: dict[str, str]) -> None:
    answer = send(server, "POST", path, headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/v1/models", "/config", "/gradio_api/info", "/health"])
@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:9", "https://evil.example", "null"])
def test_a_page_of_another_site_reads_nothing(server: Program, path: str, origin: str) -> None:
    for method in ("GET", "OPTIONS"):
        answer = send(server, method, path, {"Origin": origin, "Access-Control-Request-Method": "POST"}, "")
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-credentials" not in answer.headers


def test_programs_and_pages_of_this_server_are_answered(server: Program) -> None:
    for headers in ({}, {"Sec-Fetch-Site": "same-origin", "Origin": server.url}, {"Origin": server.url}):
        answer = send(server, "POST", "/v1/chat/completions", {**headers, "Content-Type": "application/json"})
        assert answer.status_code == 200, answer.text


def test_an_allowed_site_uses_the_api_without_cookies(strict: Program) -> None:
    asked = {"Origin": FRIEND, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    preflight = send(strict, "OPTIONS", "/v1/chat/completions", asked, "")
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, FRIEND)
    headers = {"Origin": FRIEND, "Sec-Fetch-Site": "cross-site", "Content-Type": "application/json"}
    answer = send(strict, "POST", "/v1/chat/completions", headers)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, FRIEND)
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert exposed == {"X-Request-Id", "Retry-After", "X-Ignored-Fields"}, "what a client in a browser waits and learns by"
    assert "access-control-allow-credentials" not in answer.headers
    assert send(strict, "POST", "/v1/chat/completions", {**headers, "Origin": f"{FRIEND}.evil"}).status_code == 403


def test_other_names_in_the_header_host_are_refused(strict: Program) -> None:
    for name, status in (("demo.example.com", 200), ("demo.example.com:7860", 200), ("evil.example", 400), ("", 400)):
        assert send(strict, "GET", "/v1/models", {"Host": name}, "").status_code == status


def test_the_answers_for_a_page_go_to_its_visitor_alone(server: Program) -> None:
    alice, mallory = RawChat(server), RawChat(server)
    session = uuid.uuid4().hex[:11]
    handler = alice.ask_handler
    values = {alice.conversation_field: "", alice.field("chat-input"): {"text": "What is 3 + 4?", "files": []}}
    data = [values.get(id, alice._components[id]["props"].get("value")) for id in handler["inputs"]]
    body = {"data": data, "fn_index": handler["id"], "session_hash": session, "event_data": None, "trigger_id": None}
    join, read = f"{server.url}/gradio_api/queue/join?", f"{server.url}/gradio_api/queue/data?session_hash={session}"
    assert alice.http.post(join, json=body, timeout=60).status_code == 200
    with visitor() as nobody:
        for other in (mallory.http, nobody):
            for answer in (
                other.get(read, timeout=60),
                other.post(join, json=body, timeout=60),
                other.get(f"{server.url}/gradio_api/heartbeat/{session}", timeout=60, stream=True),
            ):
                assert answer.status_code == 403
                assert "belongs to another visitor" in answer.json()["detail"]
    with alice.http.get(read, stream=True, timeout=60) as answer:
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({}, None),
        ({"host": "localhost"}, None),
        ({"host": "::1"}, None),
        ({"host": "0.0.0.0"}, "the page and the API"),
        ({"host": "10.0.0.7", "api_keys": ["a-long-key"]}, "the page"),
        ({"host": "0.0.0.0", "api_only": True}, "the API"),
        ({"host": "0.0.0.0", "api_only": True, "api_keys": ["a-long-key"]}, None),
        ({"host": "0.0.0.0", "users": [users("ann")]}, None),
    ],
)
def test_a_server_that_everybody_reaches_says_so_at_its_start(options: dict, warned: str | None) -> None:
    text = open_to_all(Settings(**options))
    assert (text is None) if warned is None else (text is not None and f"may use {warned}. " in text)
