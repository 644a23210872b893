"""The running program while its database is deleted, locked, or hangs: answers, the pages, /health and the log."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.accounts import sign_in, users
from tests.support.openai_clients import metric, post, user
from tests.support.paths import DEMOS
from tests.support.postgres import running_postgres
from tests.support.program import Program, running, visitor
from tests.support.raw_gradio_client import RawChat
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


def database_of(program: Program) -> Path:
    return program.home / "data" / "conversations.sqlite3"


def stored_answers(program: Program) -> list[str]:
    with closing(sqlite3.connect(database_of(program))) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM messages WHERE role = 'assistant' ORDER BY rowid")]


def test_a_deleted_database_is_written_again_and_the_chat_goes_on(tmp_path: Path) -> None:
    with running(tmp_path) as program:
        program.wait_ready()
        chat = RawChat(program)
        chat.ask("What is the capital of Italy?")
        [first] = chat.conversations()
        before = stored_answers(program)
        database_of(program).unlink()
        chat.ask("What is 3 + 4?", conversation=first)
        assert chat.conversations() == [first]
        after = stored_answers(program)
        assert after[: len(before)] == before
        assert len(after) == len(before) + 1
        assert program.health()["status"] == "ready"
        assert program.stderr().count("was deleted while the program ran") == 1


def test_an_answer_that_ends_while_the_database_is_locked_is_stored_afterwards(tmp_path: Path) -> None:
    with running(tmp_path, script=DEMOS / "slow_demo.py") as program:
        program.wait_ready()
        chat = RawChat(program)
        (tmp_path / "dictated").write_text("The whole answer.", encoding="utf-8")
        pause = tmp_path / "pause"
        pause.touch()
        question = {"text": "Well?", "files": []}
        with chat.begin(chat.ask_handler, {chat.conversation_field: "", chat.field("chat-input"): question}) as begun:
            assert begun.status_code == 200
            wait_until(lambda: chat.conversations(), "the question is stored")
        with closing(sqlite3.connect(database_of(program), isolation_level=None, timeout=20)) as other:
            other.execute("BEGIN IMMEDIATE")
            pause.unlink()
            wait_until(lambda: "cannot be stored yet" in program.stderr(), "the answer cannot be stored")
            refused = program.get("/health")
            assert refused is not None
            assert (refused.status_code, refused.json()["status"]) == (503, "ready")
            assert "database of conversations" in refused.json()["reason"]
            assert str(tmp_path) not in refused.text
            assert metric(program, "mllama_demo_database_up") == 0
        wait_until(lambda: stored_answers(program) == ["The whole answer."], "the answer is stored")
        program.wait_ready()
        assert metric(program, "mllama_demo_database_up") == 1
        assert program.stderr().count("ERROR mllama_demo.storage.database") == 1, "one line for the operator"


def test_a_database_server_that_hangs_delays_nothing_that_does_without_it(tmp_path: Path) -> None:
    with (
        running_postgres() as postgres,
        running(tmp_path, "--database-url", postgres.url(), script=DEMOS / "slow_demo.py") as program,
    ):
        program.wait_ready()
        asked = RawChat(program)
        (tmp_path / "dictated").write_text("The whole answer.", encoding="utf-8")
        pause = tmp_path / "pause"
        pause.touch()
        question = {"text": "Well?", "files": []}
        with asked.begin(asked.ask_handler, {asked.conversation_field: "", asked.field("chat-input"): question}) as begun:
            assert begun.status_code == 200
            wait_until(lambda: asked.conversations(), "the question is stored")
        postgres.pause()
        try:
            # More than all threads that could wait.
            with ThreadPoolExecutor(60) as pool, visitor() as session:
                session.get(f"{program.url}/explore", timeout=60)
                runs = [pool.submit(session.get, f"{program.url}/explore/runs", timeout=60) for _ in range(60)]
                assert program.get("/version") is not None
                pause.unlink()
                answers = [post(program, {"messages": [user("Well?")]}).json() for _ in range(3)]
                for run in runs:
                    response = run.result()
                    assert (response.status_code, "does not answer" in response.text) == (503, True)
            assert [answer["choices"][0]["message"]["content"] for answer in answers] == ["The whole answer."] * 3
            refused = program.get("/health")
            assert refused is not None
            assert (refused.status_code, refused.json()["status"]) == (503, "ready")
            wait_until(lambda: "cannot be stored yet" in program.stderr(), "the answer cannot be stored")
        finally:
            postgres.go_on()
        program.wait_ready()
        [conversation] = asked.conversations()
        wait_until(lambda: "The whole answer." in asked.open(conversation), "the answer is stored")
        assert program.stderr().count("ERROR mllama_demo.storage.database") == 1, "one line for the operator"


def test_the_operators_page_opens_while_the_database_fails(tmp_path: Path) -> None:
    with running(tmp_path, "--admin-key", "the-operators-key") as program, visitor() as known, visitor() as new:
        program.wait_ready()
        request = {"data": {"password": "the-operators-key"}, "headers": {"Origin": program.url}, "timeout": 60}
        assert "Live" in known.post(f"{program.url}/admin", **request).text
        for path in database_of(program).parent.glob("conversations.sqlite3*"):
            path.unlink()
        database_of(program).write_text("These are notes, not a database.\n" * 100)
        assert new.get(f"{program.url}/admin").status_code == 401
        assert "Live" in new.post(f"{program.url}/admin", **request).text
        for session in (known, new):
            assert "Live" in session.get(f"{program.url}/admin").text
            figures = session.get(f"{program.url}/admin/figures").json()
            assert "not a database" in figures["database"]
            assert figures["feedback"] is None
            assert figures["status"]["state"] == "ready"
            refused = session.get(f"{program.url}/admin/feedback.csv")
            assert (refused.status_code, "does not answer" in refused.text) == (503, True)
        database_of(program).unlink()
        program.wait_ready()
        for session in (known, new):
            figures = session.get(f"{program.url}/admin/figures").json()
            assert (figures["database"], figures["feedback"]["latest"]) == (None, [])


def test_a_sign_out_that_the_database_does_not_take_is_no_success_and_lasts_all_the_same(tmp_path: Path) -> None:
    with running(tmp_path, "--users", users("anna")) as program:
        program.wait_ready()
        session, other = sign_in(program), sign_in(program)
        copied = {cookie.name: cookie.value or "" for cookie in session.cookies}
        assert session.get(f"{program.url}/logout", allow_redirects=False).status_code == 200
        with closing(sqlite3.connect(database_of(program))) as connection:
            connection.execute("ALTER TABLE sessions RENAME TO away")
            left = session.post(f"{program.url}/logout", headers={"Origin": program.url}, allow_redirects=False)
            assert left.status_code == 503, "nothing is stored, so that a restart would bring the session back"
            assert "Not signed out for good" in left.text
            assert "<button>Sign out</button>" in left.text
            assert len(session.cookies) == len(copied), "the next attempt needs the cookie"
            assert session.get(f"{program.url}/logout", allow_redirects=False).status_code == 303, "it has ended in this process"
            with visitor() as stranger:
                unseen = stranger.get(f"{program.url}/logout", cookies=dict.fromkeys(copied, 43 * "x"), allow_redirects=False)
            assert (unseen.status_code, "does not answer" in unseen.text) == (503, True)
            connection.execute("ALTER TABLE away RENAME TO sessions")
            wait_until(lambda: connection.execute("SELECT count(*) FROM sessions").fetchone() == (1,), "the session is deleted")
        program.wait_ready()
        left = session.post(f"{program.url}/logout", headers={"Origin": program.url}, allow_redirects=False)
        assert (left.status_code, left.headers["Location"], dict(session.cookies)) == (303, "/login", {})
        with visitor() as thief:
            assert thief.get(f"{program.url}/logout", cookies=copied, allow_redirects=False).status_code == 303
        assert other.get(f"{program.url}/logout", allow_redirects=False).status_code == 200
