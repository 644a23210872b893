"""Signing in, share links and the operator's page over real HTTP: what is shut, for whom it opens, and how it shuts again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
import requests

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.config.passwords import hash_password
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.loading import load_image
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.feedback import Feedback
from mllama_demo.storage.shares import Shares
from tests.support.program import Program, running

pytestmark = pytest.mark.timeout(300)
PASSWORD, KEY = "correct horse", "the-operators-key"
HTML = {"Accept": "text/html"}
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The demo with users and an admin key; it may never log a traceback."""
    users = ",".join(f"{name}:{hash_password(PASSWORD)}" for name in ("anna", "ben"))
    options = ("--users", users, "--admins", "anna", "--admin-key", KEY, "--title", "Fish & Chips")
    with running(tmp_path_factory.mktemp("people"), *options) as program:
        program.wait_ready()
        yield program


@pytest.fixture(scope="module")
def store(house: Program) -> Iterator[ConversationStore]:
    """The database of the program, from outside."""
    store = ConversationStore(Database(f"sqlite:///{house.home / 'data' / 'conversations.sqlite3'}"))
    yield store
    store.database.close()


@pytest.fixture
def kept(store: ConversationStore) -> Conversation:
    """A conversation of anna's with a picture and something nasty."""
    dog = EXAMPLES_FOLDER / "dog.png"
    image = store.put_image(load_image(dog.read_bytes(), "dog.png"))
    messages = (Message("user", f"What is it? {SCRIPT}", image), Message("assistant", f"A *dog*. {SCRIPT}"))
    return store.save("user:anna", Conversation(messages, title=f"Dogs {SCRIPT}")).conversation()


def sign_in(house: Program, name: str = "anna", password: str = PASSWORD, **fields: str) -> requests.Session:
    session = requests.Session()
    answer = session.post(f"{house.url}/login", data={"name": name, "password": password, **fields}, allow_redirects=False)
    assert answer.status_code == 303, answer.text
    return session


# --- the gate --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/?c=1", "/gradio_api/info", "/gradio_api/queue/data", "/theme.css", "/gradio_api/file=/etc/passwd", "/x"],
)
def test_nothing_of_the_page_is_there_for_a_stranger(house: Program, path: str):
    answer = requests.get(house.url + path, allow_redirects=False)
    assert answer.status_code == 401
    asked = requests.get(house.url + path, headers=HTML, allow_redirects=False)
    assert asked.status_code == 303
    assert asked.headers["location"].startswith("/login")


@pytest.mark.parametrize(
    "path", ["/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/run/predict", "/login_check", "/token"]
)
def test_nor_can_a_stranger_send_anything(house: Program, path: str):
    assert requests.post(house.url + path, json={}).status_code == 401


def test_the_api_is_shut_too_where_no_keys_are_configured(house: Program):
    body = {"messages": [{"role": "user", "content": "hello"}]}
    for session in (requests.Session(), sign_in(house)):
        answer = session.post(f"{house.url}/v1/chat/completions", json=body)
        assert answer.status_code == 401
        assert "api_keys" in answer.json()["error"]["message"]


def test_health_needs_no_sign_in(house: Program):
    assert requests.get(f"{house.url}/health").status_code == 200


def test_who_signs_in_gets_the_page_and_where_they_wanted_to_go(house: Program):
    answer = requests.get(f"{house.url}/?c=abc&x=1", headers=HTML)
    assert 'value="/?c=abc&amp;x=1"' in answer.text
    session = requests.Session()
    form = {"name": "anna", "password": PASSWORD, "next": "/?c=abc&x=1"}
    answer = session.post(f"{house.url}/login", data=form, allow_redirects=False)
    assert answer.headers["location"] == "/?c=abc&x=1"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert session.get(f"{house.url}/config").json()["username"] == "anna"


@pytest.mark.parametrize("next", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\n/evil"])
def test_signing_in_leads_nowhere_else(house: Program, next: str):
    answer = requests.post(f"{house.url}/login", data={"name": "anna", "password": PASSWORD, "next": next}, allow_redirects=False)
    assert answer.headers["location"] == "/"


def test_a_wrong_name_and_a_wrong_password_are_told_alike(house: Program):
    texts = []
    for name, password in (("anna", "battery staple"), ("nobody", PASSWORD)):
        answer = requests.post(f"{house.url}/login", data={"name": name, "password": password})
        assert answer.status_code == 401
        texts.append(answer.text.replace(name, "…"))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
)
@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_no_other_site_signs_anybody_in_or_out(house: Program, path: str, headers: dict[str, str]):
    session = sign_in(house)
    answer = session.post(house.url + path, data={"name": "anna", "password": PASSWORD}, headers=headers, allow_redirects=False)
    assert answer.status_code == 403
    assert session.get(f"{house.url}/config").status_code == 200


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"name=anna", b"x" * 100_000, b"&".join([b"a=1"] * 100)])
def test_a_broken_form_is_an_error_with_words_and_no_more(house: Program, body: bytes):
    for kind in ("application/x-www-form-urlencoded", "application/json"):
        answer = requests.post(f"{house.url}/login", data=body, headers={"Content-Type": kind})
        assert answer.status_code in (400, 401, 429)
        assert 'role="alert"' in answer.text


def test_signing_out_ends_the_session_and_not_only_the_cookie(house: Program):
    session = sign_in(house)
    cookies = session.cookies.copy()
    assert "signed in as anna" in session.get(f"{house.url}/logout").text
    session.post(f"{house.url}/logout", headers={"Origin": house.url})
    assert requests.get(f"{house.url}/config", cookies=cookies).status_code == 401


# --- share links -----------------------------------------------------------------------------------------------------------


def test_a_link_shows_the_conversation_to_a_stranger_without_anything_that_runs(
    house: Program, store: ConversationStore, kept: Conversation
):
    token = Shares(store).create("user:anna", kept.id, "1 day")
    answer = requests.get(f"{house.url}/share/{token}")
    assert answer.status_code == 200
    assert "A <em>dog</em>." in answer.text
    assert "data:image/webp;base64," in answer.text
    assert "Fish &amp; Chips" in answer.text
    assert "the link expires on" in answer.text
    assert "<script" not in answer.text
    assert answer.headers["x-robots-tag"] == "noindex, nofollow"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]
    assert requests.head(f"{house.url}/share/{token}").status_code == 200


def test_a_link_that_is_over_says_so(house: Program, store: ConversationStore, kept: Conversation):
    shares = Shares(store)
    token = shares.create("user:anna", kept.id, "1 day")
    address = f"{house.url}/share/{token}"
    assert requests.get(address).status_code == 200
    shares.revoke("user:anna", kept.id)
    answer = requests.get(address)
    assert answer.status_code == 410
    assert "stopped sharing" in answer.text
    assert "dog" not in answer.text

    token = shares.create("user:anna", kept.id, "1 hour")
    past = datetime.now(timezone.utc).replace(tzinfo=None) - timedelta(seconds=1)
    with sqlite3.connect(house.home / "data" / "conversations.sqlite3") as database:
        database.execute("UPDATE shares SET expires = ?", (f"{past:%Y-%m-%d %H:%M:%S.%f}",))
    answer = requests.get(f"{house.url}/share/{token}")
    assert answer.status_code == 410
    assert "expired" in answer.text


@pytest.mark.parametrize("token", ["x", "A" * 43, "%2e%2e/%2e%2e/etc/passwd", "%00", "a/b", "'--", "%F0%9F%98%80"])
def test_what_was_never_a_link_is_not_found(house: Program, token: str):
    answer = requests.get(f"{house.url}/share/{token}")
    assert answer.status_code == 404
    assert "Nothing is shared here" in answer.text


# --- the operator's page ---------------------------------------------------------------------------------------------------


def test_only_admins_see_the_page_its_figures_and_the_feedback(house: Program):
    ben, anna = sign_in(house, "ben"), sign_in(house)
    for path in ("/admin/figures", "/admin/feedback.csv"):
        assert requests.get(house.url + path).status_code == 401
        assert ben.get(house.url + path).status_code == 401
        assert anna.get(house.url + path).status_code == 200
    assert "admin.js" in anna.get(f"{house.url}/admin").text
    assert "admin.js" not in ben.get(f"{house.url}/admin").text


def test_the_key_opens_the_page_and_nothing_else(house: Program):
    session = requests.Session()
    assert session.post(f"{house.url}/admin", data={"password": KEY + "x"}).status_code == 401
    assert session.post(f"{house.url}/admin", data={"password": KEY}, headers={"Origin": "https://x.example"}).status_code == 400
    assert session.post(f"{house.url}/admin", data={"password": KEY}).status_code == 200
    figures = session.get(f"{house.url}/admin/figures").json()
    assert figures["status"]["slots"] == 4
    assert len(figures["minutes"]) == 60
    assert session.get(f"{house.url}/config").status_code == 401


def test_feedback_comes_as_a_file(house: Program, store: ConversationStore, kept: Conversation):
    Feedback(store).rate("user:anna", kept.id, 1, True, "embedded")
    Feedback(store).add_note("user:anna", kept.id, 1, "=1+1")
    anna = sign_in(house)
    answer = anna.get(f"{house.url}/admin/feedback.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    assert "'=1+1" in answer.text
    latest = anna.get(f"{house.url}/admin/figures").json()["feedback"]["latest"]
    assert latest[0]["user"] == "anna"
    assert latest[0]["note"] == "=1+1"


def test_without_users_and_key_there_is_no_such_page(server: Program):
    for path in ("/admin", "/admin/figures", "/admin/feedback.csv", "/admin/static/admin.js"):
        assert requests.get(server.url + path).status_code == 404
    assert requests.get(f"{server.url}/config").status_code == 200


# --- last, since it shuts the door for a while -----------------------------------------------------------------------------


def test_guessing_is_slowed_down(house: Program):
    answers = [requests.post(f"{house.url}/login", data={"name": "anna", "password": f"guess {n}"}) for n in range(11)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0
    assert "Too many wrong attempts" in answers[-1].text
    assert requests.post(f"{house.url}/login", data={"name": "anna", "password": PASSWORD}).status_code == 429
