"""The conversations of a visitor without a browser: opened, renamed, deleted, searched, exported, and their versions."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from mllama_demo.errors import BackendUnavailable, BadRequest, DemoError, NotFound
from mllama_demo.storage import conversations as store
from mllama_demo.ui import chat_service as chat
from mllama_demo.ui.page_update import PageUpdate
from tests.support.chat_setup import ACTS, PAGE, STRANGER, TAB, Seen, bar, lines, nothing_open, opened, picture
from tests.support.manual_backend import finished, until

pytestmark = pytest.mark.timeout(60)


# --- opening and keeping -------------------------------------------------------------------------------------------------


async def test_open_shows_a_stored_conversation(house) -> None:
    id, other = house.keep("Hello?", "Hi."), house.keep("Something else?")
    [view] = await opened(house, PAGE, id)
    assert lines(view) == ["Hello?", "Hi."]
    assert (view.conversation_id, view.title, view.answering, view.input) == (id, "a talk", False, None)
    assert {id for _, id in view.conversations} == {id, other}


@pytest.mark.parametrize("id", ["", "0" * 32, "' OR 1=1 --"])
async def test_open_of_what_is_not_there_is_an_empty_chat_and_what_was_typed_stays(house, id: str) -> None:
    kept = house.keep("Hello?", "Hi.")
    assert await opened(house, PAGE, id) == [nothing_open(("a talk", kept), input=None)]


async def test_new_is_an_empty_chat_beside_the_list_of_the_others(house) -> None:
    id = house.keep("Hello?", "Hi.")
    assert await house.room.new(PAGE) == nothing_open(("a talk", id))
    assert await house.room.new(STRANGER) == nothing_open()


async def test_rename_changes_the_title_in_the_list(house) -> None:
    id = house.keep("Hello?", "Hi.")
    view = await house.room.rename(PAGE, id, "  Greetings ")
    assert (view.title, view.conversations, view.conversation_id) == ("Greetings", [("Greetings", id)], id)
    assert (view.history, view.input) == (None, None)
    assert (await opened(house, PAGE, id))[0].title == "Greetings"


async def test_a_title_too_long_is_refused_and_the_old_one_stays(house) -> None:
    id = house.keep("Hello?", "Hi.")
    with pytest.raises(BadRequest, match="1 to 120 characters"):
        await house.room.rename(PAGE, id, "x" * 121)
    assert (await opened(house, PAGE, id))[0].title == "a talk"


async def test_delete_leaves_an_empty_chat(house) -> None:
    id, other = house.keep("Hello?", "Hi."), house.keep("Something else?")
    assert await house.room.delete(PAGE, id) == nothing_open(("a talk", other), deleted="a talk")
    with pytest.raises(NotFound):
        house.kept(id)


@pytest.mark.parametrize("act", ["rename", "delete", "export"])
async def test_a_chat_that_was_never_begun_is_not_renamed_or_deleted(house, act: str) -> None:
    kept = house.keep("Hello?", "Hi.")
    with pytest.raises(BadRequest, match="This chat is empty"):
        await ACTS[act](house, "", PAGE)
    assert [(summary.title, summary.id) for summary in house.store.list(PAGE.owner)] == [("a talk", kept)]


# --- versions ------------------------------------------------------------------------------------------------------------


def numbers(view: PageUpdate) -> list[int]:
    """The versions that the arrows under the last turn lead to."""
    return [int(number) for number in re.findall(r"act-walk-(\d+)", bar(view))]


async def test_a_retried_answer_stands_beside_the_first_and_both_can_be_walked_to(house) -> None:
    id = house.keep("Hello?", "Hi.")
    views = await house.answered(house.retry(id), "Hey.")
    assert "2 / 2" in bar(views[-1])
    [first] = numbers(views[-1])
    view = await house.room.walk(PAGE, id, first)
    assert lines(view) == house.kept(id) == ["Hello?", "Hi."]
    assert "1 / 2" in bar(view)
    view = await house.room.walk(PAGE, id, *numbers(view))
    assert lines(view) == ["Hello?", "Hey."]


async def test_an_edited_question_has_its_old_answers_beside_it_with_all_that_came_after(house) -> None:
    id = house.keep("Hello?", "Hi.", "And now?", "No.")
    views = await house.answered(house.edit(id, 0, "Good evening?"), "Good evening.")
    assert "Question" in bar(views[-1])
    view = await house.room.walk(PAGE, id, *numbers(views[-1]))
    assert lines(view) == ["Hello?", "Hi.", "And now?", "No."]
    assert "1 / 2" in bar(view, 1), "the arrows stand where the ways part"


async def test_while_an_answer_is_written_no_arrow_can_be_pressed(house) -> None:
    id = house.keep("Hello?", "Hi.")
    await house.answered(house.retry(id), "Hey.")
    seen = await house.begun(house.ask("And now?", conversation_id=id), "Well, ")
    assert "2 / 2" in bar(seen.views[-1], 1)
    assert "act-walk" not in bar(seen.views[-1], 1)
    house.backend.send(finished())
    assert "act-walk" in bar((await seen.to_the_end())[-1], 1)


async def test_what_undo_took_away_can_be_brought_back(house) -> None:
    id = house.keep("Hello?", "Hi.", "And now?", "No.")
    view = await house.room.undo(PAGE, id)
    assert "Bring back 1 later version" in bar(view)
    view = await house.room.walk(PAGE, id, *numbers(view))
    assert lines(view) == house.kept(id) == ["Hello?", "Hi.", "And now?", "No."]


async def test_a_retry_that_fails_leaves_the_earlier_answer_within_reach(house) -> None:
    id = house.keep("Hello?", "Hi.")
    seen = await house.begun(house.retry(id), "Well, ")
    house.backend.send(RuntimeError("broken"))
    with pytest.raises(DemoError):
        await seen.to_the_end()
    view = seen.views[-1]
    assert "Bring back 1 later version" in bar(view)
    assert lines(await house.room.walk(PAGE, id, *numbers(view))) == ["Hello?", "Hi."]


async def test_a_version_that_is_not_there_is_refused(house) -> None:
    id = house.keep("Hello?", "Hi.")
    with pytest.raises(NotFound, match="no version 9"):
        await house.room.walk(PAGE, id, 9)


# --- search, bringing back, files ----------------------------------------------------------------------------------------


async def test_a_search_lists_what_has_the_words_until_it_is_emptied_again(house) -> None:
    italy, story = house.keep("The capital of Italy?", "Rome."), house.keep("Tell me a story", "Once upon a time")
    view = await house.room.search(PAGE, " ROME  capital ")
    assert [id for _, id in view.conversations] == [italy]
    assert view.found == "1 conversation has “ROME capital” in title or text."
    assert [id for _, id in (await opened(house, PAGE, story))[0].conversations] == [italy], "other changes keep the search"
    assert len((await opened(house, TAB, story))[0].conversations) == 2, "of this page alone"
    view = await house.room.search(PAGE, "nothing like it")
    assert (view.conversations, view.found) == ([], "No conversation has “nothing like it” in title or text.")
    view = await house.room.search(PAGE, "")
    assert (len(view.conversations), view.found) == (2, "")


async def test_a_deleted_conversation_is_brought_back_and_shown(house, notices) -> None:
    id = house.keep("Hello?", "Hi.")
    assert (await house.room.delete(PAGE, id)).deleted == "a talk"
    assert await Seen(house.restore(TAB)).to_the_end() == [PageUpdate(deleted="")]
    [view] = await Seen(house.restore(PAGE)).to_the_end()
    [notice] = notices
    assert "Nothing was deleted on this page" in notice
    assert (lines(view), view.conversations, view.deleted) == (["Hello?", "Hi."], [("a talk", id)], "")


async def test_a_failure_of_the_database_does_not_spend_the_way_back(house, monkeypatch) -> None:
    id = house.keep("Hello?", "Hi.")

    def fails(*_: object) -> None:
        raise BackendUnavailable("The database does not answer.")

    await house.room.delete(PAGE, id)
    with monkeypatch.context() as patch:
        patch.setattr(house.store, "restore", fails)
        with pytest.raises(BackendUnavailable):
            await house.room.restore(PAGE)
    view = await house.room.restore(PAGE)
    assert (lines(view), view.deleted) == (["Hello?", "Hi."], "")


async def test_what_is_gone_for_good_is_not_offered_again(house, monkeypatch, notices) -> None:
    await house.room.delete(PAGE, house.keep("Hello?", "Hi."))
    with monkeypatch.context() as patch:
        patch.setattr(store, "DELETED_LIFETIME", timedelta(0))
        house.store.purge()
    assert [await house.room.restore(PAGE) for _ in range(2)] == [PageUpdate(deleted="")] * 2
    assert "gone for good" in notices[0]
    assert "Nothing was deleted" in notices[1]


async def test_a_deleted_conversation_is_purged_by_itself_in_time(house, monkeypatch) -> None:
    purges: list[None] = []
    monkeypatch.setattr(chat, "DELETED_LIFETIME", timedelta(seconds=-1))
    id = house.keep("Hello?", "Hi.")
    monkeypatch.setattr(house.store, "purge", lambda: purges.append(None))
    await house.room.delete(PAGE, id)
    await until(lambda: len(purges) == 2, "once for what was deleted earlier, and once for this")


async def test_what_is_exported_as_json_is_imported_as_a_new_conversation(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path))
    await house.answered(house.retry(id), "A green one.")
    file = await house.room.export(PAGE, id, "json")
    assert Path(file).name == "a-picture.json"
    view = await house.room.import_conversation(STRANGER, file)
    assert lines(view) == ["What is it?", "A green one."]
    assert "imported, as its file says" in bar(view)
    assert "2 / 2" in bar(view)
    assert view.conversation_id != id
    assert [id for _, id in view.conversations] == [view.conversation_id]
    assert house.kept(id) == ["What is it?", "A green one."]


async def test_a_file_that_is_no_conversation_is_refused(house, tmp_path) -> None:
    (tmp_path / "a.json").write_text('{"format": "something else"}')
    with pytest.raises(BadRequest, match="cannot be imported: format"):
        await house.room.import_conversation(PAGE, str(tmp_path / "a.json"))
    with pytest.raises(BadRequest, match=r"gone\.json is no longer there"):
        await house.room.import_conversation(PAGE, str(tmp_path / "gone.json"))
    assert house.store.list(PAGE.owner) == []
