"""Two web processes before one PostgreSQL: a conversation goes on at either, and a restart of the database loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sql

from mllama_demo.storage.database_url import read_database_url
from mllama_demo.storage.schema import messages as table
from tests.support.paths import DEMOS
from tests.support.postgres import Postgres, running_postgres
from tests.support.program import Program, running
from tests.support.raw_gradio_client import RawChat, messages
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)
ANSWER = "The whole answer."
CONVERSATION = [("Well?", ""), (ANSWER, "end_of_turn"), ("And now?", ""), (ANSWER, "end_of_turn")]


@dataclass
class Pair:
    """Two programs with one database, and one visitor who has a page of each."""

    postgres: Postgres
    programs: list[Program]
    chats: list[RawChat]

    def dictate(self, text: str) -> Path:
        """Both models answer so from now on. Returns the file that keeps the first one from ending its answer."""
        for program in self.programs:
            (program.home / "dictated").write_text(text, encoding="utf-8")
        pause = self.programs[0].home / "pause"
        pause.touch()
        return pause

    def stored(self) -> list[tuple[str, str]]:
        """The text of every message in the database, and why an answer ended."""
        engine = sql.create_engine(read_database_url(self.postgres.url()))
        query = sql.select(table.c.text, table.c.metadata).order_by(table.c.conversation_id, table.c.position)
        with engine.connect() as connection:
            found = [(text, metadata.get("reason", "")) for text, metadata in connection.execute(query)]
        engine.dispose()
        return found


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres())
        programs = [
            stack.enter_context(running(tmp_path / name, "--database-url", postgres.url(), script=DEMOS / "slow_demo.py"))
            for name in ("one", "two")
        ]
        for program in programs:
            program.wait_ready()
        chats = [RawChat(program) for program in programs]
        chats[1].http.cookies = chats[0].http.cookies
        yield Pair(postgres, programs, chats)


def question(chat: RawChat, text: str) -> dict[int, object]:
    return {chat.conversation_field: "", chat.field("chat-input"): {"text": text, "files": []}}


def test_an_answer_under_way_is_found_again_at_the_other_web_process(pair: Pair) -> None:
    here, there = pair.chats
    pause = pair.dictate(ANSWER)
    here.call(here.ask_handler, question(here, "Well?"))
    [conversation] = there.conversations()
    with here.follow(conversation), there.follow(conversation) as page:
        shown = (json.dumps(message) for message in messages(page))
        assert any(ANSWER in message for message in shown), "the draft is shown"
        assert pair.stored() == [("Well?", "")]
        pause.unlink()
        assert "process_completed" in list(shown)[-1], "the page follows the answer to its end"
    there.ask("And now?", conversation)
    assert pair.stored() == CONVERSATION


def test_a_restarted_database_loses_nothing_of_an_answer_under_way(pair: Pair) -> None:
    here, there = pair.chats
    pause = pair.dictate(ANSWER)
    here.call(here.ask_handler, question(here, "Well?"))
    [conversation] = there.conversations()
    with here.follow(conversation):
        pair.postgres.stop()
        refused = there.call(there.ask_handler, question(there, "And here?"))
        assert "does not answer; try again later" in refused
        pause.unlink()
        wait_until(lambda: "cannot be stored yet" in pair.programs[0].stderr(), "the answer has ended")
        pair.postgres.start()
    for program in pair.programs:
        program.wait_ready()
    wait_until(lambda: len(pair.stored()) == 2, "the answer is stored")
    assert ANSWER in there.open(conversation)
    there.ask("And now?", conversation)
    assert pair.stored() == CONVERSATION
    for program in pair.programs:
        assert program.stderr().count("ERROR mllama_demo.storage.database") == 1, "one line for the operator"
