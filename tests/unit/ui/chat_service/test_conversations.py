# pyright: reportArgumentType=false, reportOptionalIterable=false
"""Managing conversations without a browser: open, rename, delete, search, export, and select versions."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from pathlib import Path

import pytest

from mllama_demo.errors import BackendUnavailable, BadRequest, NotFound
from mllama_demo.storage import conversations as store
from mllama_demo.ui import chat_service, conversation_list
from mllama_demo.ui.page_update import ListedConversation, PageUpdate
from tests.support.chat_setup import (
    ACTIONS,
    OTHER_OWNER,
    PAGE,
    TAB,
    image_file,
    metadata_shown,
    new_chat,
    open_updates,
    preview_path,
    texts_shown,
)
from tests.support.manual_backend import finished
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)


# --- opening and keeping -------------------------------------------------------------------------------------------------


async def test_open_shows_a_stored_conversation(chat) -> None:
    id, other = chat.store_conversation("Hello?", "Hi."), chat.store_conversation("Something else?")
    [view] = await open_updates(chat, PAGE, id)
    assert texts_shown(view) == ["Hello?", "Hi."]
    assert (view.conversation_id, view.title, view.answering, view.input) == (id, "a talk", False, None)
    assert {one.id for one in view.conversations} == {id, other}


@pytest.mark.parametrize("id", ["", "0" * 32, "' OR 1=1 --"])
async def test_opening_an_unknown_conversation_shows_a_new_chat_and_keeps_the_input(chat, id: str) -> None:
    kept = chat.store_conversation("Hello?", "Hi.")
    assert await open_updates(chat, PAGE, id) == [new_chat(("a talk", kept))]


async def test_new_is_an_empty_chat_beside_the_list_of_the_others(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    assert await chat.service.new(PAGE) == new_chat(("a talk", id))
    assert await chat.service.new(OTHER_OWNER) == new_chat()


async def test_rename_changes_the_title_in_the_list(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    await open_updates(chat, PAGE, id)
    view = await chat.service.rename(PAGE, id, "  Greetings ")
    assert (view.title, view.conversations) == ("Greetings", [ListedConversation("Greetings", id)])
    assert (view.history, view.input, view.conversation_id) == (None, None, None)
    assert (await open_updates(chat, PAGE, id))[0].title == "Greetings"


@pytest.mark.parametrize("new", [True, False], ids=["new chat", "conversation"])
async def test_another_conversation_of_the_list_is_renamed_and_deleted_while_the_page_stays(chat, new: bool) -> None:
    shown, other = chat.store_conversation("Hello?", "Hi."), chat.store_conversation("And you?", "Fine.")
    await open_updates(chat, PAGE, "" if new else shown)
    renamed = await chat.service.rename(PAGE, other, "Health")
    assert (renamed.title, renamed.history, renamed.conversation_id) == (None, None, None)
    deleted = await chat.service.delete(PAGE, other)
    assert (deleted.history, deleted.input, deleted.conversation_id, deleted.deleted) == (None, None, None, "Health")
    assert [one.id for one in deleted.conversations] == [shown]


async def test_a_title_that_is_too_long_is_refused(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    with pytest.raises(BadRequest, match="1 to 120 characters"):
        await chat.service.rename(PAGE, id, "x" * 121)
    assert (await open_updates(chat, PAGE, id))[0].title == "a talk"


async def test_delete_leaves_an_empty_chat(chat) -> None:
    id, other = chat.store_conversation("Hello?", "Hi."), chat.store_conversation("Something else?")
    await open_updates(chat, PAGE, id)
    assert await chat.service.delete(PAGE, id) == new_chat(("a talk", other), deleted="a talk")
    with pytest.raises(NotFound):
        chat.stored_texts(id)


@pytest.mark.parametrize("act", ["rename", "delete", "export"])
async def test_a_new_chat_cannot_be_renamed_deleted_or_exported(chat, act: str) -> None:
    kept = chat.store_conversation("Hello?", "Hi.")
    with pytest.raises(BadRequest, match="This chat is empty"):
        await ACTIONS[act](chat, "", PAGE)
    assert [(summary.title, summary.id) for summary in chat.store.list(PAGE.owner)] == [("a talk", kept)]


# --- versions ------------------------------------------------------------------------------------------------------------


def numbers(view: PageUpdate) -> list[int]:
    """The numbers of the versions that the arrows under the last message select."""
    return [int(number) for number in re.findall(r"select-version-(\d+)", metadata_shown(view))]


async def test_a_retried_answer_is_a_version_beside_the_first(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    views = await chat.answered(chat.retry(id), "Hey.")
    assert "2 / 2" in metadata_shown(views[-1])
    [first] = numbers(views[-1])
    view = await chat.service.select_version(PAGE, id, first)
    assert texts_shown(view) == chat.stored_texts(id) == ["Hello?", "Hi."]
    assert "1 / 2" in metadata_shown(view)
    view = await chat.service.select_version(PAGE, id, *numbers(view))
    assert texts_shown(view) == ["Hello?", "Hey."]


async def test_an_edited_question_keeps_its_earlier_version_with_all_answers(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.", "And now?", "No.")
    views = await chat.answered(chat.edit(id, 0, "Good evening?"), "Good evening.")
    assert "Question" in metadata_shown(views[-1])
    view = await chat.service.select_version(PAGE, id, *numbers(views[-1]))
    assert texts_shown(view) == ["Hello?", "Hi.", "And now?", "No."]
    assert "1 / 2" in metadata_shown(view, 1), "the arrows stand where the ways part"


async def test_no_version_can_be_selected_while_an_answer_is_written(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    await chat.answered(chat.retry(id), "Hey.")
    seen = await chat.begun(chat.ask("And now?", conversation_id=id), "Well, ")
    assert "2 / 2" in metadata_shown(seen.updates[-1], 1)
    assert "select-version" not in metadata_shown(seen.updates[-1], 1)
    chat.backend.send(finished())
    assert "select-version" in metadata_shown((await seen.all())[-1], 1)


async def test_messages_removed_by_undo_can_be_restored(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.", "And now?", "No.")
    view = await chat.service.undo(PAGE, id)
    assert "Bring back 1 later version" in metadata_shown(view)
    view = await chat.service.select_version(PAGE, id, *numbers(view))
    assert texts_shown(view) == chat.stored_texts(id) == ["Hello?", "Hi.", "And now?", "No."]


async def test_the_earlier_answer_can_be_restored_after_a_failed_retry(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    seen = await chat.begun(chat.retry(id), "Well, ")
    chat.backend.send(RuntimeError("broken"))
    await seen.all()
    view = seen.updates[-1]
    assert "Try again" in metadata_shown(view)
    assert "2 / 2" in metadata_shown(view)
    assert texts_shown(await chat.service.select_version(PAGE, id, numbers(view)[0])) == ["Hello?", "Hi."]


async def test_an_unknown_version_is_refused(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    with pytest.raises(NotFound, match="no version 9"):
        await chat.service.select_version(PAGE, id, 9)


# --- search, bringing back, files ----------------------------------------------------------------------------------------


async def test_a_search_filters_the_list_until_it_is_cleared(chat) -> None:
    italy, story = (
        chat.store_conversation("The capital of Italy?", "Rome."),
        chat.store_conversation("Tell me a story", "Once upon a time"),
    )
    view = await chat.service.search(PAGE, " ROME  capital ")
    assert [one.id for one in view.conversations] == [italy]
    assert view.search_result == "1 conversation has “ROME capital” in title or text."
    assert [one.id for one in (await open_updates(chat, PAGE, story))[0].conversations] == [italy], (
        "other changes keep the search"
    )
    assert len((await open_updates(chat, TAB, story))[0].conversations) == 2, "of this page alone"
    view = await chat.service.search(PAGE, "nothing like it")
    assert (view.conversations, view.search_result) == ([], "No conversation has “nothing like it” in title or text.")
    view = await chat.service.search(PAGE, "")
    assert (len(view.conversations), view.search_result) == (2, "")


async def test_the_list_says_that_there_are_older_conversations_and_shows_them(chat, monkeypatch) -> None:
    monkeypatch.setattr(conversation_list, "ROWS", 2)
    for number in range(3):
        chat.store_conversation(f"Question {number}?", "Hi.")
    view = await chat.service.search(PAGE, "question")
    assert (len(view.conversations), view.older, view.search_result) == (2, True, "More than 2 have “question” in title or text.")
    view = await chat.service.show_older(PAGE)
    assert (len(view.conversations), view.older, view.search_result) == (3, False, "3 have “question” in title or text.")
    assert len((await chat.service.new(PAGE)).conversations) == 3, "other changes keep them"
    assert (await chat.service.search(PAGE, "")).older, "another search begins with the newest"


async def test_a_deleted_conversation_is_restored_and_shown(chat, notices) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    assert (await chat.service.delete(PAGE, id)).deleted == "a talk"
    assert [await chat.service.restore(TAB)] == [PageUpdate(deleted="")]
    [view] = [await chat.service.restore(PAGE)]
    [notice] = notices
    assert "Nothing was deleted on this page" in notice
    assert (texts_shown(view), view.conversations, view.deleted) == (["Hello?", "Hi."], [ListedConversation("a talk", id)], "")


async def test_restore_can_be_repeated_after_a_database_failure(chat, monkeypatch) -> None:
    id = chat.store_conversation("Hello?", "Hi.")

    def fails(*_: object) -> None:
        raise BackendUnavailable("The database does not answer.")

    await chat.service.delete(PAGE, id)
    with monkeypatch.context() as patch:
        patch.setattr(chat.store, "restore", fails)
        with pytest.raises(BackendUnavailable):
            await chat.service.restore(PAGE)
    view = await chat.service.restore(PAGE)
    assert (texts_shown(view), view.deleted) == (["Hello?", "Hi."], "")


async def test_a_purged_conversation_is_not_offered_for_restore_again(chat, monkeypatch, notices) -> None:
    await chat.service.delete(PAGE, chat.store_conversation("Hello?", "Hi."))
    with monkeypatch.context() as patch:
        patch.setattr(store, "DELETED_LIFETIME", timedelta(0))
        chat.store.purge()
    assert [await chat.service.restore(PAGE) for _ in range(2)] == [PageUpdate(deleted="")] * 2
    assert "gone for good" in notices[0]
    assert "Nothing was deleted" in notices[1]


async def test_a_deleted_conversation_is_purged_after_its_lifetime(chat, monkeypatch) -> None:
    purges: list[None] = []
    monkeypatch.setattr(chat_service, "DELETED_LIFETIME", timedelta(seconds=-1))
    id = chat.store_conversation("Hello?", "Hi.")
    monkeypatch.setattr(chat.store, "purge", lambda: purges.append(None) or set())
    await chat.service.delete(PAGE, id)
    await until(lambda: len(purges) == 2, "once for what was deleted earlier, and once for this")


async def test_the_files_of_an_image_go_with_its_last_conversation(chat, monkeypatch, tmp_path) -> None:
    path = image_file(tmp_path)
    first, second = (chat.store_image_conversation(path) for _ in range(2))
    shown = preview_path((await open_updates(chat, PAGE, first))[-1])
    monkeypatch.setattr(store, "DELETED_LIFETIME", timedelta(0))
    await chat.service.delete(PAGE, first)
    assert shown.exists(), "another conversation shows it"
    await chat.service.delete(PAGE, second)
    chat.service._conversation_list.purge()
    assert not shown.exists()
    assert hashlib.sha256(path.read_bytes()).hexdigest() not in str(shown), "nobody can tell the path from the file"


async def test_a_json_export_is_imported_as_a_new_conversation(chat, tmp_path) -> None:
    id = chat.store_image_conversation(image_file(tmp_path))
    await chat.answered(chat.retry(id), "A green one.")
    file = await chat.service.export(PAGE, id, "json")
    assert Path(file).name == "a-picture.json"
    view = await chat.service.import_conversation(OTHER_OWNER, file)
    assert texts_shown(view) == ["What is it?", "A green one."]
    assert "imported, as its file says" in metadata_shown(view)
    assert "2 / 2" in metadata_shown(view)
    assert view.conversation_id != id
    assert [one.id for one in view.conversations] == [view.conversation_id]
    assert chat.stored_texts(id) == ["What is it?", "A green one."]


async def test_importing_a_file_that_is_no_conversation_is_refused(chat, tmp_path) -> None:
    (tmp_path / "a.json").write_text('{"format": "something else"}')
    with pytest.raises(BadRequest, match="cannot be imported: format"):
        await chat.service.import_conversation(PAGE, str(tmp_path / "a.json"))
    with pytest.raises(BadRequest, match=r"gone\.json is no longer there"):
        await chat.service.import_conversation(PAGE, str(tmp_path / "gone.json"))
    assert chat.store.list(PAGE.owner) == []
