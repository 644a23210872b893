"""Sign-in, share links and the operator's page over HTTP: who may open what, and when access ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
import requests

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.loading import load_image
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.feedback import Feedback
from mllama_demo.storage.shares import Shares
from tests.support.accounts import PASSWORD, sign_in, users
from tests.support.program import Program, running

pytestmark = pytest.mark.timeout(300)
KEY = "the-operators-key"
HTML = {"Accept": "text/html"}
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The demo with users and an admin key; a traceback in its log is a failure."""
    options = ("--users", users("anna", "ben"), "--admins", "anna", "--admin-key", KEY, "--title", "Fish & Chips")
    with running(tmp_path_factory.mktemp("people"), *options) as started:
        started.wait_ready()
        yield started


@pytest.fixture(scope="module")
def store(demo: Program) -> Iterator[ConversationStore]:
    """The database of the program, opened by the test."""
    store = ConversationStore(Database(f"sqlite:///{demo.home / 'data' / 'conversations.sqlite3'}"))
    yield store
    store.database.close()


@pytest.fixture
def conversation(store: ConversationStore) -> Conversation:
    """A conversation of anna's with an image, and with a script in its texts."""
    dog = EXAMPLES_FOLDER / "dog.png"
    image = store.put_image(load_image(dog.read_bytes(), "dog.png"))
    messages = (Message("user", f"What is it? {SCRIPT}", image), Message("assistant", f"A *dog*. {SCRIPT}"))
    return store.save("user:anna", Conversation(messages, title=f"Dogs {SCRIPT}")).conversation()


# --- without sign-in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/?c=1", "/gradio_api/info", "/gradio_api/queue/data", "/theme.css", "/gradio_api/file=/etc/passwd", "/x"],
)
def test_without_sign_in_no_page_is_served(demo: Program, path: str):
    answer = requests.get(demo.url + path, allow_redirects=False)
    assert answer.status_code == 401
    asked = requests.get(demo.url + path, headers=HTML, allow_redirects=False)
    assert asked.status_code == 303
    assert asked.headers["location"].startswith("/login")


@pytest.mark.parametrize(
    "path", ["/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/run/predict", "/login_check", "/token"]
)
def test_without_sign_in_nothing_can_be_posted(demo: Program, path: str):
    assert requests.post(demo.url + path, json={}).status_code == 401


def test_with_users_and_without_api_keys_the_api_is_closed(demo: Program):
    body = {"messages": [{"role": "user", "content": "hello"}]}
    for session in (requests.Session(), sign_in(demo)):
        answer = session.post(f"{demo.url}/v1/chat/completions", json=body)
        assert answer.status_code == 401
        assert "api_keys" in answer.json()["error"]["message"]


def test_health_needs_no_sign_in(demo: Program):
    assert requests.get(f"{demo.url}/health").status_code == 200


def test_sign_in_leads_to_the_requested_page(demo: Program):
    answer = requests.get(f"{demo.url}/?c=abc&x=1", headers=HTML)
    assert 'value="/?c=abc&amp;x=1"' in answer.text
    session = requests.Session()
    form = {"name": "anna", "password": PASSWORD, "next": "/?c=abc&x=1"}
    answer = session.post(f"{demo.url}/login", data=form, allow_redirects=False)
    assert answer.headers["location"] == "/?c=abc&x=1"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert session.get(f"{demo.url}/config").json()["username"] == "anna"


@pytest.mark.parametrize("next", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\n/evil"])
def test_sign_in_never_redirects_to_another_site(demo: Program, next: str):
    answer = requests.post(f"{demo.url}/login", data={"name": "anna", "password": PASSWORD, "next": next}, allow_redirects=False)
    assert answer.headers["location"] == "/"


def test_a_wrong_name_and_a_wrong_password_give_the_same_message(demo: Program):
    texts = []
    for name, password in (("anna", "battery staple"), ("nobody", PASSWORD)):
        answer = requests.post(f"{demo.url}/login", data={"name": name, "password": password})
        assert answer.status_code == 401
        texts.append(answer.text.replace(name, "…"))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
)
@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_another_site_cannot_sign_a_user_in_or_out(demo: Program, path: str, headers: dict[str, str]):
    session = sign_in(demo)
    answer = session.post(demo.url + path, data={"name": "anna", "password": PASSWORD}, headers=headers, allow_redirects=False)
    assert answer.status_code == 403
    assert session.get(f"{demo.url}/config").status_code == 200


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"name=anna", b"x" * 100_000, b"&".join([b"a=1"] * 100)])
def test_a_malformed_form_gives_an_error_message(demo: Program, body: bytes):
    for kind in ("application/x-www-form-urlencoded", "application/json"):
        answer = requests.post(f"{demo.url}/login", data=body, headers={"Content-Type": kind})
        assert answer.status_code in (400, 401, 429)
        assert 'role="alert"' in answer.text


def test_sign_out_ends_the_session_on_the_server(demo: Program):
    session = sign_in(demo)
    cookies = session.cookies.copy()
    assert "signed in as anna" in session.get(f"{demo.url}/logout").text
    session.post(f"{demo.url}/logout", headers={"Origin": demo.url})
    assert requests.get(f"{demo.url}/config", cookies=cookies).status_code == 401


# --- share links ---------------------------------------------------------------------------------------------------------


def test_a_share_link_shows_the_conversation_without_sign_in_and_without_scripts(
    demo: Program, store: ConversationStore, conversation: Conversation
):
    token = Shares(store).create("user:anna", conversation.id, "1 day")
    answer = requests.get(f"{demo.url}/share/{token}")
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
    assert requests.head(f"{demo.url}/share/{token}").status_code == 200


def test_a_revoked_or_expired_share_link_gives_410(demo: Program, store: ConversationStore, conversation: Conversation):
    shares = Shares(store)
    token = shares.create("user:anna", conversation.id, "1 day")
    address = f"{demo.url}/share/{token}"
    assert requests.get(address).status_code == 200
    shares.revoke("user:anna", conversation.id)
    answer = requests.get(address)
    assert answer.status_code == 410
    assert "stopped sharing" in answer.text
    assert "dog" not in answer.text

    token = shares.create("user:anna", conversation.id, "1 hour")
    past = datetime.now(timezone.utc).replace(tzinfo=None) - timedelta(seconds=1)
    with sqlite3.connect(demo.home / "data" / "conversations.sqlite3") as database:
        database.execute("UPDATE shares SET expires = ?", (f"{past:%Y-%m-%d %H:%M:%S.%f}",))
    answer = requests.get(f"{demo.url}/share/{token}")
    assert answer.status_code == 410
    assert "expired" in answer.text


@pytest.mark.parametrize("token", ["x", "A" * 43, "%2e%2e/%2e%2e/etc/passwd", "%00", "a/b", "'--", "%F0%9F%98%80"])
def test_an_unknown_share_token_gives_404(demo: Program, token: str):
    answer = requests.get(f"{demo.url}/share/{token}")
    assert answer.status_code == 404
    assert "Nothing is shared here" in answer.text


# --- the operator's page -------------------------------------------------------------------------------------------------


def test_only_admins_get_the_page_its_figures_and_the_feedback(demo: Program):
    ben, anna = sign_in(demo, "ben"), sign_in(demo)
    for path in ("/admin/figures", "/admin/feedback.csv"):
        assert requests.get(demo.url + path).status_code == 401
        assert ben.get(demo.url + path).status_code == 401
        assert anna.get(demo.url + path).status_code == 200
    assert "admin.js" in anna.get(f"{demo.url}/admin").text
    assert "admin.js" not in ben.get(f"{demo.url}/admin").text


def test_the_admin_key_gives_access_to_the_operator_page_only(demo: Program):
    session = requests.Session()
    assert session.post(f"{demo.url}/admin", data={"password": KEY + "x"}).status_code == 401
    assert session.post(f"{demo.url}/admin", data={"password": KEY}, headers={"Origin": "https://x.example"}).status_code == 403
    assert session.post(f"{demo.url}/admin", data={"password": KEY}).status_code == 200
    figures = session.get(f"{demo.url}/admin/figures").json()
    assert figures["status"]["slots"] == 4
    assert len(figures["minutes"]) == 60
    assert session.get(f"{demo.url}/config").status_code == 401


def test_feedback_is_downloaded_as_csv(demo: Program, store: ConversationStore, conversation: Conversation):
    Feedback(store).rate("user:anna", conversation.id, 1, True, "embedded")
    Feedback(store).add_note("user:anna", conversation.id, 1, "=1+1")
    anna = sign_in(demo)
    answer = anna.get(f"{demo.url}/admin/feedback.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    assert "'=1+1" in answer.text
    latest = anna.get(f"{demo.url}/admin/figures").json()["feedback"]["latest"]
    assert latest[0]["user"] == "anna"
    assert latest[0]["note"] == "=1+1"


def test_without_users_and_key_there_is_no_operator_page(server: Program):
    for path in ("/admin", "/admin/figures", "/admin/feedback.csv", "/admin/static/admin.js"):
        assert requests.get(server.url + path).status_code == 404
    assert requests.get(f"{server.url}/config").status_code == 200


# --- last, since further sign-ins are refused for a while ----------------------------------------------------------------


def test_a_password_in_the_field_of_the_name_is_not_logged(demo: Program):
    for name in ("my-password-in-the-wrong-field", "anna"):
        assert requests.post(f"{demo.url}/login", data={"name": name, "password": "x"}).status_code == 401
    log = demo.stderr()
    assert "wrong password for an unknown name from 127.0.0.1" in log
    assert "wrong password for 'anna' from 127.0.0.1" in log
    assert "my-password" not in log


def test_repeated_wrong_passwords_are_refused_for_a_while(demo: Program):
    answers = [requests.post(f"{demo.url}/login", data={"name": "anna", "password": f"guess {n}"}) for n in range(11)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0
    assert "Too many wrong attempts" in answers[-1].text
    assert requests.post(f"{demo.url}/login", data={"name": "anna", "password": PASSWORD}).status_code == 429
