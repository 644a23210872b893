"""Asking, retrying, editing and undoing without a browser: what each handler shows and what it stores."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from mllama_demo.engine.base import QueueEvent
from mllama_demo.images.loading import load_image
from mllama_demo.ui.page_update import NO_INPUT, PageUpdate
from mllama_demo.ui.user_message import WORD_JOINER
from tests.support.chat_setup import PAGE, STRANGER, Seen, lines, opened, picture, picture_of, preview_of, sampling
from tests.support.manual_backend import READ, finished, until

pytestmark = pytest.mark.timeout(60)

# What the model's turn shows before its first word.
PROGRESS = "<span"


def digest_of(path: Path) -> str:
    return load_image(path.read_bytes(), path.name).digest


async def test_a_first_question_is_shown_at_once_answered_word_by_word_and_listed(house) -> None:
    seen = Seen(house.ask("Hello?"))
    await house.backend.taken()
    await until(lambda: seen.views, "the page shows that it waits")
    house.backend.send(QueueEvent(1, None))
    await until(lambda: "Next in line" in lines(seen.views[-1])[-1], "the place in the queue")
    house.backend.send(READ)
    await until(lambda: "Reading" in lines(seen.views[-1])[-1], "the prompt is read")
    house.backend.say("Hi ")
    await until(lambda: lines(seen.views[-1])[-1] == "Hi ", "the first word")
    house.backend.say("there")
    house.backend.send(finished())
    views = await seen.to_the_end()
    first, last = views[0], views[-1]
    listing = next(n for n, view in enumerate(views) if view.begun)
    assert [view.conversations for view in views[:-1] if view.conversations is not None] == [last.conversations], "once"
    assert [view.title for view in views if view.title is not None] == ["Hello?"], "once, since it can be changed meanwhile"
    assert views[listing].conversations == last.conversations, "as soon as it is stored"
    assert lines(first)[0] == "Hello?"
    assert lines(first)[1].startswith(PROGRESS)
    assert (first.input, first.answering) == (None, True)
    assert views[listing].input == NO_INPUT, "what was typed goes once the question is taken"
    assert first.conversation_id
    assert {view.conversation_id for view in views} == {first.conversation_id, None}
    assert all(view.input is None for n, view in enumerate(views) if n != listing), "what is typed meanwhile stays"
    assert {view.answering for view in views[: listing + 1]} == {True}
    assert views[listing].begun
    assert all(view == PageUpdate(view.history, view.live) for view in views[listing + 1 : -1]), "then nothing but the answer"
    assert last.answering is False
    assert lines(last) == ["Hello?", "Hi there"]
    assert "finished" in last.history[1]["content"][1]["text"]
    assert last.conversations == [("Hello?", first.conversation_id)]
    assert house.kept(first.conversation_id) == ["Hello?", "Hi there"]
    assert house.store.list(STRANGER.owner) == []


async def test_a_further_question_goes_on_with_the_conversation(house) -> None:
    id = house.keep("Hello?", "Hi.")
    views = await house.answered(house.ask("And now?", conversation_id=id), "Still here.")
    assert lines(views[0])[:3] == ["Hello?", "Hi.", "And now?"]
    assert lines(views[-1]) == house.kept(id) == ["Hello?", "Hi.", "And now?", "Still here."]
    assert views[-1].conversations == [("a talk", id)]


async def test_a_question_about_a_picture_shows_it_with_its_name_and_sends_it(house, tmp_path) -> None:
    path = picture(tmp_path)
    views = await house.answered(house.ask("What is it?", path), "A square.")
    for view in views:
        assert picture_of(view).props["alt_text"] == "square.png, 40 × 30 pixels"
        assert preview_of(view) == house.room.previews / "shown" / digest_of(path) / "preview.webp"
        assert lines(view)[0] == "What is it?"
    assert "saw square.png, 40 × 30 px" in views[-1].history[1]["content"][1]["text"]
    sent = house.backend.requests[0].image
    assert (sent.name, sent.width, sent.height) == ("square.png", 40, 30)


async def test_a_picture_alone_is_a_question(house, tmp_path) -> None:
    views = await house.answered(house.ask("", picture(tmp_path)), "A square.")
    assert len(views[-1].history[0]["content"]) == 1
    assert [view.title for view in views if view.title is not None] == ["square.png"]


async def test_what_the_server_holds_counts_and_not_what_the_page_claims(house) -> None:
    """The handler gets an id and no history, so that only the stored turns reach the model."""
    id = house.keep("Hello?", "Hi.")
    await house.answered(house.ask("  And now?\n", conversation_id=id), "Yes.")
    prompt = "".join(map(chr, house.backend.requests[0].prompt_ids))
    assert [prompt.count(text) for text in ("Hello?", "Hi.", "And now?")] == [1, 1, 1]
    assert house.kept(id)[2] == "And now?"


async def test_retry_answers_the_last_question_again(house) -> None:
    id = house.keep("Hello?", "Hi.", "And now?", "No.")
    views = await house.answered(house.retry(id), "Yes.")
    assert lines(views[0])[:3] == ["Hello?", "Hi.", "And now?"]
    assert lines(views[0])[3].startswith(PROGRESS)
    assert lines(views[-1]) == house.kept(id) == ["Hello?", "Hi.", "And now?", "Yes."]
    assert all(view.input is None for view in views), "what is typed stays"
    assert [view.answering for view in (views[0], views[-1])] == [True, False]


async def test_retry_answers_a_question_that_has_no_answer_yet(house) -> None:
    id = house.keep("Hello?")
    await house.answered(house.retry(id), "Hi.")
    assert house.kept(id) == ["Hello?", "Hi."]


async def test_edit_replaces_the_question_and_what_came_after(house) -> None:
    id = house.keep("Hello?", "Hi.", "And now?", "No.")
    views = await house.answered(house.edit(id, 0, " Good evening? "), "Good evening.")
    assert lines(views[0])[0] == "Good evening?"
    assert len(lines(views[0])) == 2, "what came after is gone at once"
    assert lines(views[-1]) == house.kept(id) == ["Good evening?", "Good evening."]
    assert all(view.input is None for view in views)


async def test_an_edited_question_keeps_its_picture(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path))
    views = await house.answered(house.edit(id, 0, ""), "A square.")
    assert house.backend.requests[0].image.name == "square.png"
    assert preview_of(views[-1]).is_file()
    assert house.kept(id) == ["", "A square."]


@pytest.mark.parametrize("text", ["Is <b>this</b> bold?", "Is 1 < 2 && 3 > 2?", "What does &lt; mean?", "And <!-- this -->?"])
async def test_a_question_is_shown_as_typed_and_stored_as_typed(house, text: str) -> None:
    """Shown as markdown: nothing that was typed may vanish as a tag, or turn into another character."""
    views = await house.answered(house.ask(text), "Well.")
    for view in views:
        [shown, _] = lines(view)
        assert not re.search(r"<[A-Za-z/!?]", shown)
        assert html.unescape(shown) == shown
        assert re.sub(f"([<&]){WORD_JOINER}", r"\1", shown) == text
    assert house.kept(views[-1].conversation_id)[0] == text


@pytest.mark.parametrize("text", ["Is <b>this</b> bold?", "What does &lt; mean?", "And `<b>`, or `&lt;`?"])
async def test_a_question_that_is_edited_back_as_it_was_stays_as_it_was(house, text: str) -> None:
    """The page hands back what it was given to show."""
    id = house.keep(text, "Well.")
    [view] = await opened(house, PAGE, id)
    await house.answered(house.edit(id, 0, lines(view)[0]), "Well.")
    assert house.kept(id) == [text, "Well."]


async def test_undo_takes_the_question_back_into_the_input(house) -> None:
    id = house.keep("Hello?", "Hi.", "And now?", "No.")
    view = await house.room.undo(PAGE, id)
    assert lines(view) == house.kept(id) == ["Hello?", "Hi."]
    assert view.input == {"text": "And now?", "files": []}
    assert view.conversation_id == id
    assert house.backend.requests == []


async def test_undo_takes_the_picture_back_too_as_it_was_sent(house, tmp_path) -> None:
    path = picture(tmp_path)
    id = house.keep_picture(path)
    view = await house.room.undo(PAGE, id)
    assert view.history == []
    [file] = view.input["files"]
    assert Path(file) == house.room.previews / "attached" / digest_of(path) / path.name
    assert Path(file).read_bytes() == path.read_bytes()
    views = await house.answered(house.room.ask(PAGE, id, view.input, sampling), "A square.")
    assert house.backend.requests[0].image.name == path.name
    assert lines(views[-1]) == ["What is it?", "A square."]
