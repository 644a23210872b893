"""The chat without a browser: what each handler shows, what it stores, and whom it refuses with which sentence."""

from __future__ import annotations

import asyncio
import html
import re
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gradio.components.chatbot import ComponentMessage
from hand_backend import READ, CodePoints, HandBackend, finished, run, talk, until
from PIL import Image

from mllama_demo.answer import Answerer
from mllama_demo.backend.base import QueueEvent
from mllama_demo.config import EMBEDDED_CHECKPOINT, Settings
from mllama_demo.conversation import Conversation, Message
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, DemoError, ImageError, NotFound
from mllama_demo.images import load_image
from mllama_demo.sampling import SamplingParams
from mllama_demo.store import Store
from mllama_demo.tokenizer import Tokenizer
from mllama_demo.ui import chat, pictures
from mllama_demo.ui import views as views_module
from mllama_demo.ui.chat import ChatRoom
from mllama_demo.ui.questions import MAX_QUESTION_CHARACTERS, WORD_JOINER
from mllama_demo.ui.sight import NOTHING
from mllama_demo.ui.views import NO_INPUT, View, Visit, guarded, guarded_stream, visit_of

pytestmark = pytest.mark.timeout(60)
PAGE, TAB = Visit("me", "page"), Visit("me", "another tab")
STRANGER = Visit("a stranger", "their page")
SAMPLING = SamplingParams(seed=1)
PLACE = "59.9139 N, 10.7522 E"
# What the model's turn shows before its first word.
PROGRESS = "<span"


def nothing_open(*listed: tuple[str, str], input: dict[str, Any] | None = NO_INPUT, **changes: Any) -> View:
    """An empty chat beside the list of the others."""
    view = View([], "", input, False, list(listed), "", found="", sight=NOTHING)
    return replace(view, **changes)


class House:
    """A chat room with all that is behind it."""

    def __init__(self, store: Store | None = None, tokenizer: Any = None, **settings: Any) -> None:
        self.store = store or Store("sqlite://")
        self.backend = HandBackend()
        self.answerer = Answerer(self.backend, tokenizer or CodePoints(), self.store, Settings(**settings))
        self.room = ChatRoom(self.answerer, self.store, [])

    def close(self) -> None:
        self.room.close()
        self.store.close()

    def keep(self, *texts: str, visit: Visit = PAGE) -> str:
        """Stores a conversation; its id."""
        conversation = talk(*texts)
        self.store.save(visit.owner, conversation)
        return conversation.id

    def keep_picture(self, path: Path) -> str:
        """Stores a conversation of one answered question about a picture; its id."""
        image = self.store.put_image(load_image(path.read_bytes(), path.name))
        conversation = Conversation((Message("user", "What is it?", image), Message("assistant", "A square.")), title="a picture")
        self.store.save(PAGE.owner, conversation)
        return conversation.id

    def kept(self, conversation_id: str) -> list[str]:
        return [message.text for message in self.store.load(PAGE.owner, conversation_id).messages]

    def ask(self, text: str = "", *files: Path, conversation_id: str = "", visit: Visit = PAGE) -> AsyncGenerator[View, None]:
        return self.room.ask(visit, conversation_id, value(text, *files), SAMPLING)

    async def answered(self, views: AsyncGenerator[View, None], *said: str) -> list[View]:
        """All views of a handler whose question is answered with that."""
        seen = Seen(views)
        await self.backend.taken()
        self.backend.send(READ)
        self.backend.say(*said)
        self.backend.send(finished())
        return await seen.to_the_end()

    async def begun(self, views: AsyncGenerator[View, None], *said: str) -> Seen:
        """The views of a handler whose answer has begun with that and is on the page."""
        seen = Seen(views)
        await self.backend.taken()
        self.backend.send(READ)
        self.backend.say(*said)
        await until(lambda: seen.views and lines(seen.views[-1])[-1] == "".join(said), "the first words are on the page")
        return seen


class Seen:
    """The views of a handler, as they come."""

    def __init__(self, views: AsyncGenerator[View, None]) -> None:
        self.views: list[View] = []
        self.task = asyncio.create_task(self._collect(views))

    async def _collect(self, views: AsyncGenerator[View, None]) -> None:
        async with aclosing(views) as stream:
            async for view in stream:
                self.views.append(view)

    async def to_the_end(self) -> list[View]:
        await self.task
        return self.views


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages look often enough to see every change."""
    monkeypatch.setattr(chat, "UPDATES_PER_SECOND", 1000)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Gradio copies every picture that a component shows."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.close()


def value(text: str = "", *files: Path) -> dict[str, Any]:
    """What the input box sends."""
    return {"text": text, "files": [str(file) for file in files]}


def lines(view: View) -> list[str]:
    """The text of each turn on the page."""
    assert view.history is not None
    return [next((part["text"] for part in turn["content"] if isinstance(part, dict)), "") for turn in view.history]


def picture(folder: Path, name: str = "square.png", size: tuple[int, int] = (40, 30), exif: bool = False, **options: Any) -> Path:
    """A picture in a file. exif: with the place where it was taken."""
    image = Image.new("RGB", size, "green")
    if exif:
        metadata = Image.Exif()
        metadata[0x010E] = PLACE  # ImageDescription
        options["exif"] = metadata
    path = folder / name
    image.save(path, **options)
    return path


def picture_of(view: View) -> ComponentMessage:
    """The picture that the page shows in the first turn."""
    assert view.history is not None
    shown = view.history[0]["content"][0]
    assert isinstance(shown, ComponentMessage)
    assert shown.component == "image"
    return shown


def preview_of(view: View) -> Path:
    """The room's file behind that picture."""
    return Path(picture_of(view).value["path"])


def digest_of(path: Path) -> str:
    return load_image(path.read_bytes(), path.name).digest


async def refused(views: AsyncGenerator[View, None], error: type[DemoError]) -> tuple[list[View], str]:
    """What was shown before the failure, and its sentence."""
    seen = Seen(views)
    with pytest.raises(error) as caught:
        await seen.to_the_end()
    return seen.views, str(caught.value)


# --- asking --------------------------------------------------------------------------------------------------------------


def test_a_first_question_is_shown_at_once_answered_word_by_word_and_listed(house) -> None:
    async def scene() -> list[View]:
        seen = Seen(house.ask("Hello?"))
        await house.backend.taken()
        house.backend.send(QueueEvent(1, None))
        await until(lambda: seen.views and "Next in line" in lines(seen.views[-1])[-1], "the place in the queue")
        house.backend.send(READ)
        await until(lambda: "Reading" in lines(seen.views[-1])[-1], "the prompt is read")
        house.backend.say("Hi ")
        await until(lambda: lines(seen.views[-1])[-1] == "Hi ", "the first word")
        house.backend.say("there")
        house.backend.send(finished())
        return await seen.to_the_end()

    views = run(scene())
    first, last = views[0], views[-1]
    listing = next(n for n, view in enumerate(views) if "Sending" not in lines(view)[-1])
    assert [view.conversations for view in views[:-1] if view.conversations is not None] == [last.conversations], "once"
    assert views[listing].conversations == last.conversations, "as soon as it is stored"
    assert lines(first)[0] == "Hello?"
    assert lines(first)[1].startswith(PROGRESS)
    assert (first.input, first.answering) == (None, True)
    assert views[listing].input == NO_INPUT, "what was typed goes once the question is taken"
    assert first.conversation_id
    assert {view.conversation_id for view in views} == {first.conversation_id}
    assert all(view.input is None for n, view in enumerate(views) if n != listing), "what is typed meanwhile stays"
    assert [view.answering for view in views] == [True] * (len(views) - 1) + [False]
    assert lines(last) == ["Hello?", "Hi there"]
    assert "finished" in last.history[1]["content"][1]["text"]
    assert (last.conversations, last.title) == ([("Hello?", first.conversation_id)], "Hello?")
    assert house.kept(first.conversation_id) == ["Hello?", "Hi there"]
    assert house.store.list(STRANGER.owner) == []


def test_a_further_question_goes_on_with_the_conversation(house) -> None:
    id = house.keep("Hello?", "Hi.")
    views = run(house.answered(house.ask("And now?", conversation_id=id), "Still here."))
    assert lines(views[0])[:3] == ["Hello?", "Hi.", "And now?"]
    assert lines(views[-1]) == house.kept(id) == ["Hello?", "Hi.", "And now?", "Still here."]
    assert views[-1].conversations == [("a talk", id)]


def test_a_question_about_a_picture_shows_it_with_its_name_and_sends_it(house, tmp_path) -> None:
    path = picture(tmp_path)
    views = run(house.answered(house.ask("What is it?", path), "A square."))
    for view in views:
        assert picture_of(view).props["alt_text"] == "square.png, 40 × 30 pixels"
        assert preview_of(view) == house.room.previews / "shown" / digest_of(path) / "preview.webp"
        assert lines(view)[0] == "What is it?"
    assert "saw square.png, 40 × 30 px" in views[-1].history[1]["content"][1]["text"]
    sent = house.backend.requests[0].image
    assert (sent.name, sent.width, sent.height) == ("square.png", 40, 30)


def test_a_picture_alone_is_a_question(house, tmp_path) -> None:
    views = run(house.answered(house.ask("", picture(tmp_path)), "A square."))
    assert len(views[-1].history[0]["content"]) == 1
    assert views[-1].title == "square.png"


def test_what_the_server_holds_counts_and_not_what_the_page_claims(house) -> None:
    """The handler gets an id and no history, so that only the stored turns reach the model."""
    id = house.keep("Hello?", "Hi.")
    run(house.answered(house.ask("  And now?\n", conversation_id=id), "Yes."))
    prompt = "".join(map(chr, house.backend.requests[0].prompt_ids))
    assert [prompt.count(text) for text in ("Hello?", "Hi.", "And now?")] == [1, 1, 1]
    assert house.kept(id)[2] == "And now?"


def test_retry_answers_the_last_question_again(house) -> None:
    id = house.keep("Hello?", "Hi.", "And now?", "No.")
    views = run(house.answered(house.room.retry(PAGE, id, SAMPLING), "Yes."))
    assert lines(views[0])[:3] == ["Hello?", "Hi.", "And now?"]
    assert lines(views[0])[3].startswith(PROGRESS)
    assert lines(views[-1]) == house.kept(id) == ["Hello?", "Hi.", "And now?", "Yes."]
    assert all(view.input is None for view in views), "what is typed stays"
    assert [view.answering for view in (views[0], views[-1])] == [True, False]


def test_retry_answers_a_question_that_has_no_answer_yet(house) -> None:
    id = house.keep("Hello?")
    run(house.answered(house.room.retry(PAGE, id, SAMPLING), "Hi."))
    assert house.kept(id) == ["Hello?", "Hi."]


def test_edit_replaces_the_question_and_what_came_after(house) -> None:
    id = house.keep("Hello?", "Hi.", "And now?", "No.")
    views = run(house.answered(house.room.edit(PAGE, id, 0, " Good evening? ", SAMPLING), "Good evening."))
    assert lines(views[0])[0] == "Good evening?"
    assert len(views[0].history) == 2
    assert lines(views[-1]) == house.kept(id) == ["Good evening?", "Good evening."]
    assert all(view.input is None for view in views)


def test_an_edited_question_keeps_its_picture(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path))
    views = run(house.answered(house.room.edit(PAGE, id, 0, "", SAMPLING), "A square."))
    assert house.backend.requests[0].image.name == "square.png"
    assert preview_of(views[-1]).is_file()
    assert house.kept(id) == ["", "A square."]


@pytest.mark.parametrize("text", ["Is <b>this</b> bold?", "Is 1 < 2 && 3 > 2?", "What does &lt; mean?", "And <!-- this -->?"])
def test_a_question_is_shown_as_typed_and_stored_as_typed(house, text: str) -> None:
    """Shown as markdown: nothing that was typed may vanish as a tag, or turn into another character."""
    views = run(house.answered(house.ask(text), "Well."))
    for view in views:
        [shown, _] = lines(view)
        assert not re.search(r"<[A-Za-z/!?]", shown)
        assert html.unescape(shown) == shown
        assert re.sub(f"([<&]){WORD_JOINER}", r"\1", shown) == text
    assert house.kept(views[-1].conversation_id)[0] == text


@pytest.mark.parametrize("text", ["Is <b>this</b> bold?", "What does &lt; mean?", "And `<b>`, or `&lt;`?"])
def test_a_question_that_is_edited_back_as_it_was_stays_as_it_was(house, text: str) -> None:
    """The page hands back what it was given to show."""
    id = house.keep(text, "Well.")
    [view] = opened(house, PAGE, id)
    run(house.answered(house.room.edit(PAGE, id, 0, lines(view)[0], SAMPLING), "Well."))
    assert house.kept(id) == [text, "Well."]


def test_undo_takes_the_question_back_into_the_input(house) -> None:
    id = house.keep("Hello?", "Hi.", "And now?", "No.")
    view = run(house.room.undo(PAGE, id))
    assert lines(view) == house.kept(id) == ["Hello?", "Hi."]
    assert view.input == {"text": "And now?", "files": []}
    assert view.conversation_id == id
    assert house.backend.requests == []


def test_undo_takes_the_picture_back_too_as_it_was_sent(house, tmp_path) -> None:
    path = picture(tmp_path)
    id = house.keep_picture(path)
    view = run(house.room.undo(PAGE, id))
    assert view.history == []
    [file] = view.input["files"]
    assert Path(file) == house.room.previews / "attached" / digest_of(path) / path.name
    assert Path(file).read_bytes() == path.read_bytes()
    views = run(house.answered(house.room.ask(PAGE, id, view.input, SAMPLING), "A square."))
    assert house.backend.requests[0].image.name == path.name
    assert lines(views[-1]) == ["What is it?", "A square."]


# --- opening and keeping -------------------------------------------------------------------------------------------------


def opened(house: House, visit: Visit, conversation_id: str) -> list[View]:
    async def scene() -> list[View]:
        return await Seen(house.room.open(visit, conversation_id)).to_the_end()

    return run(scene())


def test_open_shows_a_stored_conversation(house) -> None:
    id, other = house.keep("Hello?", "Hi."), house.keep("Something else?")
    [view] = opened(house, PAGE, id)
    assert lines(view) == ["Hello?", "Hi."]
    assert (view.conversation_id, view.title, view.answering, view.input) == (id, "a talk", False, None)
    assert {id for _, id in view.conversations} == {id, other}


@pytest.mark.parametrize("id", ["", "0" * 32, "' OR 1=1 --"])
def test_open_of_what_is_not_there_is_an_empty_chat_and_what_was_typed_stays(house, id: str) -> None:
    kept = house.keep("Hello?", "Hi.")
    assert opened(house, PAGE, id) == [nothing_open(("a talk", kept), input=None)]


def test_new_is_an_empty_chat_beside_the_list_of_the_others(house) -> None:
    id = house.keep("Hello?", "Hi.")
    assert run(house.room.new(PAGE)) == nothing_open(("a talk", id))
    assert run(house.room.new(STRANGER)) == nothing_open()


def test_rename_changes_the_title_in_the_list(house) -> None:
    id = house.keep("Hello?", "Hi.")
    view = run(house.room.rename(PAGE, id, "  Greetings "))
    assert (view.title, view.conversations, view.conversation_id) == ("Greetings", [("Greetings", id)], id)
    assert (view.history, view.input) == (None, None)
    assert opened(house, PAGE, id)[0].title == "Greetings"


def test_a_title_too_long_is_refused_and_the_old_one_stays(house) -> None:
    id = house.keep("Hello?", "Hi.")
    with pytest.raises(BadRequest, match="1 to 120 characters"):
        run(house.room.rename(PAGE, id, "x" * 121))
    assert opened(house, PAGE, id)[0].title == "a talk"


def test_delete_leaves_an_empty_chat(house) -> None:
    id, other = house.keep("Hello?", "Hi."), house.keep("Something else?")
    assert run(house.room.delete(PAGE, id)) == nothing_open(("a talk", other), deleted="a talk")
    with pytest.raises(NotFound):
        house.kept(id)


@pytest.mark.parametrize("act", ["rename", "delete", "export"])
def test_a_chat_that_was_never_begun_is_not_renamed_or_deleted(house, act: str) -> None:
    kept = house.keep("Hello?", "Hi.")

    async def scene() -> None:
        with pytest.raises(BadRequest, match="This chat is empty"):
            await ACTS[act](house, "", PAGE)

    run(scene())
    assert [(summary.title, summary.id) for summary in house.store.list(PAGE.owner)] == [("a talk", kept)]


# --- versions ------------------------------------------------------------------------------------------------------------


def bar(view: View, turn: int = -1) -> str:
    """What stands under an answer."""
    assert view.history is not None
    return view.history[turn]["content"][-1]["text"]


def numbers(view: View) -> list[int]:
    """The versions that the arrows under the last turn lead to."""
    return [int(number) for number in re.findall(r"act-walk-(\d+)", bar(view))]


def test_a_retried_answer_stands_beside_the_first_and_both_can_be_walked_to(house) -> None:
    id = house.keep("Hello?", "Hi.")
    views = run(house.answered(house.room.retry(PAGE, id, SAMPLING), "Hey."))
    assert "2 / 2" in bar(views[-1])
    [first] = numbers(views[-1])
    view = run(house.room.walk(PAGE, id, first))
    assert lines(view) == house.kept(id) == ["Hello?", "Hi."]
    assert "1 / 2" in bar(view)
    view = run(house.room.walk(PAGE, id, *numbers(view)))
    assert lines(view) == ["Hello?", "Hey."]


def test_an_edited_question_has_its_old_answers_beside_it_with_all_that_came_after(house) -> None:
    id = house.keep("Hello?", "Hi.", "And now?", "No.")
    views = run(house.answered(house.room.edit(PAGE, id, 0, "Good evening?", SAMPLING), "Good evening."))
    assert "Question" in bar(views[-1])
    view = run(house.room.walk(PAGE, id, *numbers(views[-1])))
    assert lines(view) == ["Hello?", "Hi.", "And now?", "No."]
    assert "1 / 2" in bar(view, 1), "the arrows stand where the ways part"


def test_while_an_answer_is_written_no_arrow_can_be_pressed(house) -> None:
    id = house.keep("Hello?", "Hi.")

    async def scene() -> None:
        await house.answered(house.room.retry(PAGE, id, SAMPLING), "Hey.")
        seen = await house.begun(house.ask("And now?", conversation_id=id), "Well, ")
        assert "2 / 2" in bar(seen.views[-1], 1)
        assert "act-walk" not in bar(seen.views[-1], 1)
        house.backend.send(finished())
        assert "act-walk" in bar((await seen.to_the_end())[-1], 1)

    run(scene())


def test_what_undo_took_away_can_be_brought_back(house) -> None:
    id = house.keep("Hello?", "Hi.", "And now?", "No.")
    view = run(house.room.undo(PAGE, id))
    assert "Bring back 1 later version" in bar(view)
    view = run(house.room.walk(PAGE, id, *numbers(view)))
    assert lines(view) == house.kept(id) == ["Hello?", "Hi.", "And now?", "No."]


def test_a_retry_that_fails_leaves_the_earlier_answer_within_reach(house) -> None:
    id = house.keep("Hello?", "Hi.")

    async def scene() -> View:
        seen = await house.begun(house.room.retry(PAGE, id, SAMPLING), "Well, ")
        house.backend.send(RuntimeError("broken"))
        with pytest.raises(DemoError):
            await seen.to_the_end()
        return seen.views[-1]

    view = run(scene())
    assert "Bring back 1 later version" in bar(view)
    assert lines(run(house.room.walk(PAGE, id, *numbers(view)))) == ["Hello?", "Hi."]


def test_a_version_that_is_not_there_is_refused(house) -> None:
    id = house.keep("Hello?", "Hi.")
    with pytest.raises(NotFound, match="no version 9"):
        run(house.room.walk(PAGE, id, 9))


# --- search, bringing back, files ----------------------------------------------------------------------------------------


def test_a_search_lists_what_has_the_words_until_it_is_emptied_again(house) -> None:
    italy, story = house.keep("The capital of Italy?", "Rome."), house.keep("Tell me a story", "Once upon a time")
    view = run(house.room.search(PAGE, " ROME  capital "))
    assert [id for _, id in view.conversations] == [italy]
    assert view.found == "1 conversation has “ROME capital” in title or text."
    assert [id for _, id in opened(house, PAGE, story)[0].conversations] == [italy], "other changes keep the search"
    assert len(opened(house, TAB, story)[0].conversations) == 2, "of this page alone"
    view = run(house.room.search(PAGE, "nothing like it"))
    assert (view.conversations, view.found) == ([], "No conversation has “nothing like it” in title or text.")
    view = run(house.room.search(PAGE, ""))
    assert (len(view.conversations), view.found) == (2, "")


def test_a_deleted_conversation_is_brought_back_and_shown(house) -> None:
    id = house.keep("Hello?", "Hi.")

    async def scene() -> list[View]:
        assert (await house.room.delete(PAGE, id)).deleted == "a talk"
        with pytest.raises(BadRequest, match="Nothing was deleted"):
            await Seen(house.room.restore(TAB)).to_the_end()
        return await Seen(house.room.restore(PAGE)).to_the_end()

    [view] = run(scene())
    assert (lines(view), view.conversations, view.deleted) == (["Hello?", "Hi."], [("a talk", id)], "")


def test_a_deleted_conversation_is_purged_by_itself_in_time(house, monkeypatch) -> None:
    purges: list[None] = []
    monkeypatch.setattr(chat, "DELETED_LIFETIME", timedelta(seconds=-1))

    async def scene() -> None:
        id = house.keep("Hello?", "Hi.")
        monkeypatch.setattr(house.store, "purge", lambda: purges.append(None))
        await house.room.delete(PAGE, id)
        await until(lambda: len(purges) == 2, "once for what was deleted earlier, and once for this")

    run(scene())


def test_what_is_exported_as_json_is_imported_as_a_new_conversation(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path))
    run(house.answered(house.room.retry(PAGE, id, SAMPLING), "A green one."))
    file = run(house.room.export(PAGE, id, "json"))
    assert Path(file).name == "a-picture.json"
    view = run(house.room.bring_in(STRANGER, file))
    assert lines(view) == ["What is it?", "A green one."]
    assert "imported, as its file says" in bar(view)
    assert "2 / 2" in bar(view)
    assert view.conversation_id != id
    assert [id for _, id in view.conversations] == [view.conversation_id]
    assert house.kept(id) == ["What is it?", "A green one."]


def test_a_file_that_is_no_conversation_is_refused(house, tmp_path) -> None:
    (tmp_path / "a.json").write_text('{"format": "something else"}')
    with pytest.raises(BadRequest, match="cannot be imported: format"):
        run(house.room.bring_in(PAGE, str(tmp_path / "a.json")))
    with pytest.raises(BadRequest, match=r"gone\.json is no longer there"):
        run(house.room.bring_in(PAGE, str(tmp_path / "gone.json")))
    assert house.store.list(PAGE.owner) == []


# --- several images ------------------------------------------------------------------------------------------------------


def asked_with(house: House, id: str, which: Any, *files: Path) -> View:
    return run(house.answered(house.room.ask(PAGE, id, value("Which?", *files), SAMPLING, which), "This."))[-1]


def test_a_new_image_is_what_the_model_sees_unless_another_is_chosen(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path, "old.png"))
    new = picture(tmp_path, "new.png", (30, 40))
    assert "saw new.png" in bar(asked_with(house, id, "newest", new))
    assert house.backend.requests[-1].image.name == "new.png"


def test_the_first_image_can_be_kept_and_the_other_is_said_to_be_set_aside(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path, "old.png"))
    view = asked_with(house, id, "first", picture(tmp_path, "new.png", (30, 40)))
    assert house.backend.requests[-1].image.name == "old.png"
    assert "saw old.png" in bar(view)
    assert "set aside: new.png" in bar(view)


def test_two_images_can_be_seen_side_by_side(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path, "old.png", (40, 30)))
    view = asked_with(house, id, "together", picture(tmp_path, "new.png", (60, 60)))
    sent = house.backend.requests[-1].image
    assert (sent.name, sent.width, sent.height) == ("old.png + new.png", 80 + 16 + 60, 60)
    assert "saw old.png + new.png" in bar(view)


@pytest.mark.parametrize(("which", "seen", "aside"), [("newest", "b.png", "a.png"), ("first", "a.png", "b.png")])
def test_of_two_images_in_one_question_one_is_seen_and_the_other_named(house, tmp_path, which, seen, aside) -> None:
    view = asked_with(house, "", which, picture(tmp_path, "a.png"), picture(tmp_path, "b.png", (30, 40)))
    assert house.backend.requests[-1].image.name == seen
    assert f"set aside: {aside}" in bar(view)


def test_a_choice_that_there_is_not_is_refused(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path, "old.png"))

    async def scene() -> None:
        sent = value("Which?", picture(tmp_path, "new.png"))
        _, sentence = await refused(house.room.ask(PAGE, id, sent, SAMPLING, "best"), BadRequest)  # type: ignore[arg-type]
        assert "newest, first or together, not 'best'" in sentence

    run(scene())


def test_before_a_second_image_is_sent_the_page_asks_and_shows_what_would_be_seen(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path, "old.png"))
    sent = value("", picture(tmp_path, "new.png", (30, 40)))

    async def scene(which: Any, id: str, sent: dict[str, Any]) -> tuple[Any, str]:
        return await house.room.attached(PAGE, id, sent, which)

    choice, sight = run(scene("newest", id, sent))
    assert [label for label, _ in choice.options] == [
        "The new one: new.png", "Stay with old.png", "Both side by side, as one picture",
    ]  # fmt: skip
    assert "new.png, 30 × 40 px" in sight
    assert "old.png, 40 × 30 px" in run(scene("first", id, sent))[1]
    assert "old.png + new.png" in run(scene("together", id, sent))[1]
    assert run(scene("newest", id, value("")))[0] is None
    assert run(scene("newest", "", sent))[0] is None, "one image alone needs no choice"
    assert "new.png" in run(scene("newest", "not stored yet", sent))[1]


def test_a_file_that_is_no_image_is_said_to_be_none_before_it_is_sent(house, tmp_path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"<!doctype html><script>alert(1)</script>")
    _, sight = run(house.room.attached(PAGE, "", value("", tmp_path / "page.jpg"), "newest"))
    assert "page.jpg" in sight
    assert "not an image" in sight


def test_what_an_answer_saw_can_be_looked_at_later(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path, "old.png"))
    asked_with(house, id, "newest", picture(tmp_path, "new.png", (30, 40)))
    assert "old.png, 40 × 30 px" in run(house.room.look(PAGE, id, 1))
    assert "new.png, 30 × 40 px" in run(house.room.look(PAGE, id, 3))
    other = house.keep("Hello?", "Hi.")
    with pytest.raises(BadRequest, match="saw no image"):
        run(house.room.look(PAGE, other, 1))


# --- an answer under way -------------------------------------------------------------------------------------------------


def test_stop_ends_the_answer_and_keeps_what_was_written(house) -> None:
    async def scene() -> list[View]:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        await house.room.stop(PAGE, seen.views[-1].conversation_id)
        return await seen.to_the_end()

    last = run(scene())[-1]
    assert (lines(last), last.answering) == (["Hello?", "Well, "], False)
    assert "stopped by you" in last.history[1]["content"][1]["text"]
    assert house.kept(last.conversation_id) == ["Hello?", "Well, "]


def test_stop_works_before_the_model_has_said_anything(house) -> None:
    """The page shows the Stop button at once; the first event may take the time of somebody else's prefill."""

    async def scene() -> list[View]:
        seen = Seen(house.ask("Hello?"))
        await house.backend.taken()
        await until(lambda: seen.views and seen.views[-1].answering, "the page shows Stop")
        await house.room.stop(PAGE, seen.views[-1].conversation_id)
        return await seen.to_the_end()

    assert run(scene())[-1].answering is False
    assert house.backend.closed == [house.backend.requests[0].id]


def test_a_reload_finds_the_answer_before_the_model_has_said_anything(house) -> None:
    async def scene() -> None:
        seen = Seen(house.ask("Hello?"))
        await house.backend.taken()
        await until(lambda: seen.views, "the question is on the page")
        reloaded = Seen(house.room.open(TAB, seen.views[-1].conversation_id))
        await until(lambda: reloaded.views, "the page is there again")
        house.backend.send(READ, finished(text="Hi."))
        await seen.to_the_end()
        assert lines((await reloaded.to_the_end())[-1]) == ["Hello?", "Hi."]

    run(scene())


def test_another_tab_finds_the_answer_under_way_and_sees_its_end(house) -> None:
    async def scene() -> None:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        tab = Seen(house.room.open(TAB, seen.views[-1].conversation_id))
        await until(lambda: tab.views and lines(tab.views[-1]) == ["Hello?", "Well, "], "the tab shows the answer")
        assert {view.answering for view in tab.views} == {True}
        house.backend.say("hello")
        house.backend.send(finished())
        for views in (await seen.to_the_end(), await tab.to_the_end()):
            assert (lines(views[-1]), views[-1].answering) == (["Hello?", "Well, hello"], False)
        assert all(view.input is None for view in tab.views)

    run(scene())


def test_a_page_that_was_closed_gets_no_more_views_and_the_answer_goes_on(house) -> None:
    async def scene() -> None:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        id, before = seen.views[-1].conversation_id, len(seen.views)
        house.room.leave(PAGE.session)
        house.backend.say("hello")
        await seen.to_the_end()
        assert seen.views[before:] == [View()], "nothing of the conversation comes last"
        reloaded = Seen(house.room.open(PAGE, id))
        await until(lambda: reloaded.views and lines(reloaded.views[-1])[-1] == "Well, hello", "the page is there again")
        house.backend.send(finished())
        await reloaded.to_the_end()
        assert house.kept(id) == ["Hello?", "Well, hello"]

    run(scene())


@pytest.mark.parametrize("where", ["another conversation", "a new chat"])
def test_a_page_that_moved_on_gets_no_more_views_of_the_answer(house, where: str) -> None:
    other = house.keep("Something else?", "Sure.")

    async def scene() -> None:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        id, before = seen.views[-1].conversation_id, len(seen.views)
        if where == "a new chat":
            shown = await house.room.new(PAGE)
            assert shown.history == []
        else:
            [shown] = await Seen(house.room.open(PAGE, other)).to_the_end()
            assert lines(shown) == ["Something else?", "Sure."]
        house.backend.say("hello")
        house.backend.send(finished())
        await seen.to_the_end()
        assert seen.views[before:] == [View()], "nothing of the conversation comes last"
        await until(lambda: house.kept(id) == ["Hello?", "Well, hello"], "the answer is kept all the same")

    run(scene())


def test_a_question_does_not_take_over_a_page_that_moved_on_before_it_could_begin() -> None:
    class SlowToLoad(Store):
        def load(self, owner: str, id: str) -> Conversation:
            loading.set()
            assert go_on.wait(20)
            return super().load(owner, id)

    loading, go_on = threading.Event(), threading.Event()
    house = House(SlowToLoad("sqlite://"))
    id = house.keep("Hello?", "Hi.")

    async def scene() -> None:
        go_on.set()
        await Seen(house.room.open(PAGE, id)).to_the_end()
        go_on.clear()
        loading.clear()
        seen = Seen(house.ask("And now?", conversation_id=id))
        try:
            assert await asyncio.to_thread(loading.wait, 20)
            await house.room.new(PAGE)
        finally:
            go_on.set()
        await house.backend.taken()
        house.backend.send(READ, finished(text="Yes."))
        assert await seen.to_the_end() == [View()]
        await until(lambda: house.kept(id)[-1] == "Yes.", "the question is answered all the same")

    run(scene())
    assert house.kept(id) == ["Hello?", "Hi.", "And now?", "Yes."]
    house.close()


@pytest.mark.parametrize("verb", ["retry", "edit"])
def test_an_answer_that_is_asked_for_again_is_shown_wherever_the_page_was(house, verb: str) -> None:
    """The buttons stand beside the conversation, so the page shows it, whatever the server heard of it."""
    id, other = house.keep("Hello?", "Hi."), house.keep("Something else?", "Sure.")

    async def scene() -> list[View]:
        await Seen(house.room.open(PAGE, other)).to_the_end()
        streams = {"retry": house.room.retry(PAGE, id, SAMPLING), "edit": house.room.edit(PAGE, id, 0, "Hello?", SAMPLING)}
        return await house.answered(streams[verb], "Hey.")

    views = run(scene())
    assert {view.conversation_id for view in views} == {id}
    assert lines(views[-1]) == ["Hello?", "Hey."]


def test_a_failed_answer_does_not_trouble_a_page_that_moved_on(house) -> None:
    other = house.keep("Something else?", "Sure.")

    async def scene() -> None:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        before = len(seen.views)
        await Seen(house.room.open(PAGE, other)).to_the_end()
        house.backend.send(RuntimeError("broken"))
        await seen.to_the_end()
        assert seen.views[before:] == [View()], "nothing of the conversation comes last"

    run(scene())


Act = Callable[[House, str, Visit], Awaitable[Any]]
CHANGES: dict[str, Act] = {
    "ask": lambda house, id, visit: Seen(house.ask("And now?", conversation_id=id, visit=visit)).to_the_end(),
    "retry": lambda house, id, visit: Seen(house.room.retry(visit, id, SAMPLING)).to_the_end(),
    "edit": lambda house, id, visit: Seen(house.room.edit(visit, id, 0, "Good evening?", SAMPLING)).to_the_end(),
    "undo": lambda house, id, visit: house.room.undo(visit, id),
    "rename": lambda house, id, visit: house.room.rename(visit, id, "Mine"),
    "walk": lambda house, id, visit: house.room.walk(visit, id, 0),
}
ACTS: dict[str, Act] = {
    **CHANGES,
    "delete": lambda house, id, visit: house.room.delete(visit, id),
    "stop": lambda house, id, visit: house.room.stop(visit, id),
    "look": lambda house, id, visit: house.room.look(visit, id, 1),
    "export": lambda house, id, visit: house.room.export(visit, id, "json"),
}


@pytest.mark.parametrize("act", CHANGES)
def test_a_conversation_that_is_being_answered_is_not_changed_from_another_tab(house, act: str) -> None:
    async def scene() -> None:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        id = seen.views[-1].conversation_id
        with pytest.raises(BadRequest, match="is being answered already"):
            await CHANGES[act](house, id, TAB)
        house.backend.say("hello")
        house.backend.send(finished())
        assert lines((await seen.to_the_end())[-1]) == house.kept(id) == ["Hello?", "Well, hello"]
        assert len(house.backend.requests) == 1

    run(scene())


def test_a_conversation_deleted_while_it_is_answered_is_gone_from_the_list(house) -> None:
    async def scene() -> None:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        view = await house.room.delete(PAGE, seen.views[-1].conversation_id)
        assert (view.history, view.conversations) == ([], [])
        await seen.to_the_end()
        await until(lambda: house.backend.closed, "the answer has ended")

    run(scene())
    assert house.store.list(PAGE.owner) == []


def test_a_conversation_deleted_in_one_tab_leaves_the_tab_that_watches_its_answer(house) -> None:
    async def scene() -> list[View]:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        await house.room.delete(TAB, seen.views[-1].conversation_id)
        return await seen.to_the_end()

    assert run(scene())[-1] == nothing_open()


def test_an_answer_that_ends_while_its_conversation_is_being_deleted_does_not_bring_it_back() -> None:
    class SlowToDelete(Store):
        def delete(self, owner: str, id: str) -> None:
            super().delete(owner, id)
            deleted.set()
            assert go_on.wait(20)

    deleted, go_on = threading.Event(), threading.Event()
    house = House(SlowToDelete("sqlite://"))

    async def scene() -> None:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        deleting = asyncio.create_task(house.room.delete(PAGE, seen.views[-1].conversation_id))
        try:
            assert await asyncio.to_thread(deleted.wait, 20)
            if not house.backend.closed:
                house.backend.send(finished())
            await seen.to_the_end()
        finally:
            go_on.set()
        await deleting

    run(scene())
    assert house.store.list(PAGE.owner) == []
    house.close()


def test_a_conversation_deleted_while_its_answer_is_being_stored_does_not_come_back() -> None:
    class SlowToSave(Store):
        def save(self, owner: str, conversation: Conversation) -> Conversation:
            if conversation.messages[-1].role == "assistant":
                saving.set()
                assert go_on.wait(20)
            return super().save(owner, conversation)

    saving, go_on = threading.Event(), threading.Event()
    house = House(SlowToSave("sqlite://"))

    async def scene() -> None:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        house.backend.send(finished())
        try:
            assert await asyncio.to_thread(saving.wait, 20)
            deleting = asyncio.create_task(house.room.delete(PAGE, seen.views[-1].conversation_id))
            await asyncio.sleep(0.1)
            assert not deleting.done(), "it waits for what is being stored, to delete that too"
        finally:
            go_on.set()
        assert (await deleting).conversations == []
        await seen.to_the_end()

    run(scene())
    assert house.store.list(PAGE.owner) == []
    house.close()


# --- refusing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [act for act in ACTS if act != "stop"])
def test_a_conversation_of_another_owner_is_not_found_and_nothing_of_it_is_shown(house, act: str) -> None:
    id = house.keep("Hello?", "Hi.")

    async def scene() -> None:
        with pytest.raises(NotFound) as caught:
            await ACTS[act](house, id, STRANGER)
        assert str(caught.value) == f"There is no conversation {id}."

    run(scene())
    assert house.kept(id) == ["Hello?", "Hi."]
    assert house.store.list(PAGE.owner)[0].title == "a talk"
    assert house.backend.requests == []


@pytest.mark.parametrize("whose", ["one's own", "another owner's", "nobody's", "no"])
def test_stop_where_nothing_is_under_way_is_ignored(house, whose: str) -> None:
    """The page may press Stop a moment after the end."""
    mine, theirs = house.keep("Hello?", "Hi."), house.keep("Something else?", "Sure.", visit=STRANGER)
    id = {"one's own": mine, "another owner's": theirs, "nobody's": "0" * 32, "no": ""}[whose]

    async def scene() -> None:
        seen = await house.begun(house.ask("And this?"), "Well, ")
        await house.room.stop(PAGE, id)
        house.backend.say("hello")
        house.backend.send(finished())
        assert lines((await seen.to_the_end())[-1]) == ["And this?", "Well, hello"], "other answers go on"

    run(scene())
    assert house.backend.cancelled == []
    assert house.kept(mine) == ["Hello?", "Hi."]
    assert [message.text for message in house.store.load(STRANGER.owner, theirs).messages] == ["Something else?", "Sure."]


def test_a_stranger_who_knows_the_id_cannot_open_watch_or_end_an_answer(house) -> None:
    async def scene() -> None:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        id = seen.views[-1].conversation_id
        assert await Seen(house.room.open(STRANGER, id)).to_the_end() == [nothing_open(input=None)]
        assert await house.room.stop(STRANGER, id) is None, "ignored, as if nothing were under way"
        with pytest.raises(NotFound):
            await house.room.delete(STRANGER, id)
        assert house.backend.cancelled == []
        house.backend.say("hello")
        house.backend.send(finished())
        assert lines((await seen.to_the_end())[-1]) == house.kept(id) == ["Hello?", "Well, hello"]
        assert "finished" in seen.views[-1].history[1]["content"][1]["text"]

    run(scene())


def test_a_stranger_does_not_learn_from_undo_or_rename_that_an_answer_is_under_way(house) -> None:
    async def scene() -> None:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        id = seen.views[-1].conversation_id
        for attempt in (house.room.undo(STRANGER, id), house.room.rename(STRANGER, id, "mine")):
            with pytest.raises(NotFound):
                await attempt
        house.backend.send(finished())
        await seen.to_the_end()

    run(scene())


@pytest.mark.parametrize("verb", ["ask", "retry", "edit"])
def test_a_forged_id_shows_not_a_single_view(house, verb: str) -> None:
    id = house.keep("Hello?", "Hi.")
    streams = {
        "ask": lambda: house.ask("And now?", conversation_id=id, visit=STRANGER),
        "retry": lambda: house.room.retry(STRANGER, id, SAMPLING),
        "edit": lambda: house.room.edit(STRANGER, id, 0, "Good evening?", SAMPLING),
    }

    async def scene() -> None:
        views, _ = await refused(streams[verb](), NotFound)
        assert views == []

    run(scene())


REFUSALS = [BackendBusy("The demo is busy: 8 questions are waiting."), BackendUnavailable("The model is still loading.")]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_refused_first_question_goes_back_into_the_input(house, tmp_path, refusal: DemoError) -> None:
    house.backend.refusal = refusal
    typed = value("What is it?", picture(tmp_path))

    async def scene() -> tuple[list[View], str]:
        return await refused(house.room.ask(PAGE, "", typed, SAMPLING), type(refusal))

    views, sentence = run(scene())
    assert sentence == str(refusal)
    last = views[-1]
    assert (last.history, last.conversation_id, last.input, last.answering) == ([], "", typed, False)
    assert house.store.list(PAGE.owner) == []


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("verb", ["ask", "retry", "edit"])
def test_a_refused_question_leaves_the_conversation_and_the_page_as_they_were(house, verb: str, refusal: DemoError) -> None:
    id = house.keep("Hello?", "Hi.")
    house.backend.refusal = refusal
    streams = {
        "ask": lambda: house.ask("And now?", conversation_id=id),
        "retry": lambda: house.room.retry(PAGE, id, SAMPLING),
        "edit": lambda: house.room.edit(PAGE, id, 0, "Good evening?", SAMPLING),
    }

    async def scene() -> tuple[list[View], str]:
        return await refused(streams[verb](), type(refusal))

    views, sentence = run(scene())
    assert sentence == str(refusal)
    assert (lines(views[-1]), views[-1].answering) == (["Hello?", "Hi."], False)
    assert views[-1].conversation_id in (id, None)
    assert views[-1].input == (value("And now?") if verb == "ask" else None)
    assert house.kept(id) == ["Hello?", "Hi."]

    house.backend.refusal = None
    run(house.answered(streams[verb](), "Yes."))
    assert house.kept(id)[-1] == "Yes.", "nothing keeps the next try from working"


def test_an_answer_that_fails_in_the_middle_leaves_the_question_and_a_sentence(house) -> None:
    async def scene() -> tuple[list[View], str]:
        seen = await house.begun(house.ask("Hello?"), "Well, ")
        house.backend.send(RuntimeError("secret_internals"))
        with pytest.raises(DemoError) as caught:
            await seen.to_the_end()
        return seen.views, str(caught.value)

    views, sentence = run(scene())
    assert "secret_internals" not in sentence
    assert (lines(views[-1]), views[-1].answering) == (["Hello?"], False)
    assert house.kept(views[-1].conversation_id) == ["Hello?"]


@pytest.mark.parametrize("index", [-4, -2, -1, 1, 3, 4, 10**6])
def test_only_a_question_of_the_conversation_can_be_edited(house, index: int) -> None:
    id = house.keep("Hello?", "Hi.", "And now?", "No.")

    async def scene() -> None:
        views, sentence = await refused(house.room.edit(PAGE, id, index, "Good evening?", SAMPLING), BadRequest)
        assert (views, sentence) == ([], "Only a question can be edited.")

    run(scene())
    assert house.kept(id) == ["Hello?", "Hi.", "And now?", "No."]


def test_a_question_is_not_edited_into_nothing(house) -> None:
    id = house.keep("Hello?", "Hi.")

    async def scene() -> None:
        views, sentence = await refused(house.room.edit(PAGE, id, 0, "  \n", SAMPLING), BadRequest)
        assert (views, sentence) == ([], "A question needs a few words or an image.")

    run(scene())
    assert house.kept(id) == ["Hello?", "Hi."]


@pytest.mark.parametrize("verb", ["retry", "undo"])
def test_without_a_question_there_is_nothing_to_go_back_to(house, verb: str) -> None:
    id = house.keep()

    async def scene() -> None:
        with pytest.raises(BadRequest, match="no question to go back to"):
            await CHANGES[verb](house, id, PAGE)

    run(scene())


def refusal_of(house: House, sent: dict[str, Any], error: type[DemoError] = BadRequest) -> str:
    """The sentence for what the input box sent; nothing may be shown, stored or asked."""

    async def scene() -> tuple[list[View], str]:
        return await refused(house.room.ask(PAGE, "", sent, SAMPLING), error)

    views, sentence = run(scene())
    assert views == []
    assert house.store.list(PAGE.owner) == []
    assert house.backend.requests == []
    return sentence


@pytest.mark.parametrize("sent", [value(), value(" \n\t"), {}, {"text": None, "files": None}])
def test_an_empty_question_is_refused(house, sent: dict[str, Any]) -> None:
    assert refusal_of(house, sent) == "Type a question, or add an image."


def test_more_images_than_can_be_shown_together_are_refused(house, tmp_path) -> None:
    sent = value("Which?", *(picture(tmp_path, f"{n}.png") for n in range(5)))
    assert refusal_of(house, sent) == "A question takes at most 4 images, this one has 5."


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("holiday.png", b"MZ\x90\x00 this program cannot be run"),
        ("holiday.png", b"\x89PNG\r\n\x1a\n" + b"\x00" * 40),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        ("page.jpg", b"<!doctype html><script>alert(1)</script>"),
        ("empty.png", b""),
    ],
    ids=["program", "broken", "svg", "web page", "empty"],
)
def test_a_hostile_file_is_refused_by_its_name(house, tmp_path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert name in refusal_of(house, value("What is it?", tmp_path / name), ImageError)


def test_a_file_given_as_the_browser_describes_it_is_read_too(house, tmp_path) -> None:
    sent = {"text": "What is it?", "files": [{"path": str(picture(tmp_path)), "orig_name": "square.png"}]}
    views = run(house.answered(house.room.ask(PAGE, "", sent, SAMPLING), "A square."))
    assert preview_of(views[-1]).is_file()


@pytest.mark.parametrize(("limit", "said"), [(3 * 2**20, "3 M"), (1536, "1.5 K"), (1024, "1 K")])
def test_a_file_too_large_is_refused_with_its_name_and_the_limit(tmp_path, limit: int, said: str) -> None:
    house = House(max_image_bytes=limit)
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(limit + 1)
    sentence = refusal_of(house, value("What is it?", path))
    assert "huge.png" in sentence
    assert f" {said}" in sentence
    house.close()


def test_a_file_that_is_no_longer_there_is_refused_by_its_name(house, tmp_path) -> None:
    """Uploads are cleared away after a day; a page may be open for longer."""
    assert "yesterday.png" in refusal_of(house, value("What is it?", tmp_path / "yesterday.png"))


def test_a_text_too_long_is_refused_with_both_lengths(house) -> None:
    sentence = refusal_of(house, value("x" * (MAX_QUESTION_CHARACTERS + 1)))
    assert f"{MAX_QUESTION_CHARACTERS + 1} characters" in sentence
    assert f"at most {MAX_QUESTION_CHARACTERS}" in sentence


def test_a_text_of_the_greatest_length_is_asked(house) -> None:
    said = "x" * MAX_QUESTION_CHARACTERS
    views = run(house.answered(house.ask(f"  {said}\n"), "Long."))
    assert lines(views[-1]) == [said, "Long."]


def test_an_edit_too_long_is_refused_too(house) -> None:
    id = house.keep("Hello?", "Hi.")

    async def scene() -> None:
        views, sentence = await refused(house.room.edit(PAGE, id, 0, "x" * (MAX_QUESTION_CHARACTERS + 1), SAMPLING), BadRequest)
        assert views == []
        assert f"at most {MAX_QUESTION_CHARACTERS}" in sentence

    run(scene())
    assert house.kept(id) == ["Hello?", "Hi."]


def test_half_a_character_is_refused_with_a_sentence() -> None:
    """A lone surrogate is what is left of an emoji cut in two; neither the tokenizer nor the database takes one."""
    house = House(tokenizer=Tokenizer(EMBEDDED_CHECKPOINT))

    async def scene() -> None:
        await refused(house.ask("Look \ud83d"), BadRequest)

    run(scene())
    assert house.store.list(PAGE.owner) == []
    house.close()


# --- images --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), [("holiday.jpg", {}), ("holiday.webp", {"lossless": True}), ("holiday.png", {})])
def test_what_the_browser_shows_has_no_metadata(house, tmp_path, name: str, options: dict[str, Any]) -> None:
    path = picture(tmp_path, name, exif=True, **options)
    assert PLACE.encode() in path.read_bytes(), "the original has it"
    views = run(house.answered(house.ask("Where?", path), "Who knows."))
    shown = preview_of(views[-1])
    assert PLACE.encode() not in shown.read_bytes()
    with Image.open(shown) as image:
        assert (image.format, image.size, dict(image.getexif())) == ("WEBP", (40, 30), {})


def test_a_picture_that_is_named_like_a_preview_is_not_shown_in_its_place(house, tmp_path) -> None:
    path = picture(tmp_path, "preview.webp", exif=True)
    id = house.keep_picture(path)
    [view] = opened(house, PAGE, id)
    assert PLACE.encode() not in preview_of(view).read_bytes()
    taken_back = run(house.room.undo(PAGE, id))
    assert Path(taken_back.input["files"][0]).read_bytes() == path.read_bytes()
    views = run(house.answered(house.room.ask(PAGE, id, taken_back.input, SAMPLING), "A square."))
    assert PLACE.encode() not in preview_of(views[-1]).read_bytes()


def test_a_huge_picture_is_shown_small(house, tmp_path) -> None:
    views = run(house.answered(house.ask("What is it?", picture(tmp_path, size=(3000, 1500))), "A square."))
    with Image.open(preview_of(views[-1])) as image:
        assert image.size == (1024, 512)


def test_a_fetched_picture_becomes_a_file_to_attach(house, tmp_path, monkeypatch) -> None:
    data = picture(tmp_path).read_bytes()
    asked: list[Any] = []

    def fetch(url: str, limits: Any, *, allowed_hosts: Any) -> Any:
        asked.append((url, limits, allowed_hosts))
        return load_image(data, "../../a/b?c.png")

    monkeypatch.setattr(pictures, "fetch_image", fetch)
    path = Path(run(house.room.fetch("  https://example.com/a.png ")))
    assert asked == [("https://example.com/a.png", house.answerer.limits, [])]
    assert path.read_bytes() == data
    assert path.suffix == ".png"
    assert path.resolve().is_relative_to(house.room.previews.resolve())


@pytest.mark.parametrize("url", ["", "  ", None])
def test_fetching_without_an_address_is_refused(house, url: Any) -> None:
    with pytest.raises(BadRequest, match="Enter the address"):
        run(house.room.fetch(url))


def test_the_pictures_are_gone_with_the_room(house, tmp_path) -> None:
    views = run(house.answered(house.ask("What is it?", picture(tmp_path)), "A square."))
    assert preview_of(views[-1]).is_relative_to(house.room.previews)
    house.room.close()
    assert not preview_of(views[-1]).exists()
    assert not house.room.previews.exists()


# --- notices and visitors ------------------------------------------------------------------------------------------------


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text of each notice on the page. A notice with a title is one too many."""
    shown: list[str] = []

    def warn(message: str, *, duration: float) -> None:
        assert duration == 12
        shown.append(message)

    monkeypatch.setattr(views_module.gr, "Warning", warn)
    return shown


def test_an_expected_failure_becomes_a_notice_with_nothing_taken_for_html(notices) -> None:
    async def fails() -> str:
        raise BadRequest('"<img src=x onerror=alert(1)>" is no image.')

    assert run(guarded(fails())) is None
    [text] = notices
    assert "<" not in text
    assert html.unescape(text) == '"<img src=x onerror=alert(1)>" is no image.'


def test_a_busy_backend_is_said_to_be_busy(notices) -> None:
    async def fails() -> None:
        raise REFUSALS[0]

    run(guarded(fails()))
    assert notices == [str(REFUSALS[0])]


def test_a_stream_ends_at_an_expected_failure_and_leaves_what_was_shown_before(notices) -> None:
    async def views() -> AsyncGenerator[View, None]:
        yield View(title="shown")
        raise NotFound("It is gone.")

    def cannot_begin() -> AsyncGenerator[View, None]:
        raise BadRequest("top_p must be lower.")

    async def scene() -> None:
        assert await Seen(guarded_stream(views)).to_the_end() == [View(title="shown"), View()]
        assert await Seen(guarded_stream(cannot_begin)).to_the_end() == [View()], "a view that changes nothing"

    run(scene())
    assert notices == ["It is gone.", "top_p must be lower."]


def test_what_succeeds_is_passed_on_without_a_notice(notices) -> None:
    async def works() -> int:
        return 7

    assert run(guarded(works())) == 7
    assert notices == []


def test_an_unexpected_failure_is_logged_and_said_without_its_words(notices, caplog) -> None:
    async def fails() -> None:
        raise ZeroDivisionError("a secret")

    async def views() -> AsyncGenerator[View, None]:
        await fails()
        yield View()

    async def scene() -> None:
        assert await guarded(fails()) is None
        assert await Seen(guarded_stream(views)).to_the_end() == [View()]

    run(scene())
    assert notices == ["Something went wrong in the demo; its log has the cause."] * 2
    assert caplog.text.count("ZeroDivisionError: a secret") == 2


def test_a_visitor_is_a_cookie_or_else_the_page_itself() -> None:
    token = "A" * 32

    def visit(cookie: str | None, session: str, user: str | None = None) -> Visit:
        headers = {"cookie": cookie} if cookie else {}
        return visit_of(SimpleNamespace(session_hash=session, headers=headers, username=user))  # type: ignore[arg-type]

    assert visit(f"mllama_visitor={token}", "one") == Visit(token, "one")
    assert visit(f"mllama_visitor={token}", "one", "anna") == Visit("user:anna", "one"), "who signed in is more than a cookie"
    assert visit(f"mllama_visitor={token}", "two").owner == visit(f"mllama_visitor={token}", "one").owner
    assert visit(None, "one").owner != visit(None, "two").owner
    assert visit("mllama_visitor=session-two", "one") == visit(None, "one"), "nobody becomes another page by a cookie"
