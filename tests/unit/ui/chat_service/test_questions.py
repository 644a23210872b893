# pyright: reportOptionalSubscript=false
"""Ask, retry, edit and undo without a browser: what the page shows and what is stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mllama_demo.engine.base import QueueEvent
from mllama_demo.errors import BadRequest, DemoError
from mllama_demo.images.loading import load_image
from mllama_demo.ui.page_update import NO_INPUT, ListedConversation, PageUpdate
from mllama_demo.ui.question_edit import QuestionEdit
from tests.support.chat_setup import (
    OTHER_OWNER,
    PAGE,
    REFUSALS,
    CollectedUpdates,
    image_file,
    image_shown,
    metadata_shown,
    preview_path,
    refused_updates,
    texts_shown,
)
from tests.support.manual_backend import READ, finished
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)

# The beginning of an answer's HTML before its first token.
PROGRESS = "Sending …"


def digest_of(path: Path) -> str:
    return load_image(path.read_bytes(), path.name).digest


async def test_a_first_question_is_shown_at_once_streamed_and_listed(chat) -> None:
    seen = CollectedUpdates(chat.ask("Hello?"))
    await chat.backend.taken()
    await until(lambda: seen.updates, "the page shows that it waits")
    chat.backend.send(QueueEvent(1, None))
    await until(lambda: "Next in line" in texts_shown(seen.updates[-1])[-1], "the place in the queue")
    chat.backend.send(READ)
    await until(lambda: "Reading" in texts_shown(seen.updates[-1])[-1], "the prompt is read")
    chat.backend.say("Hi ")
    await until(lambda: texts_shown(seen.updates[-1])[-1] == "Hi", "the first word")
    chat.backend.say("there")
    chat.backend.send(finished())
    views = await seen.all()
    first, last = views[0], views[-1]
    listing = next(n for n, view in enumerate(views) if view.begun)
    assert [view.conversations for view in views[:-1] if view.conversations is not None] == [last.conversations], "once"
    assert [view.title for view in views if view.title is not None] == ["Hello?"], "once, since it can be changed meanwhile"
    assert views[listing].conversations == last.conversations, "as soon as it is stored"
    assert texts_shown(first)[0] == "Hello?"
    assert texts_shown(first)[1].startswith(PROGRESS)
    assert (first.input, first.answering) == (None, True)
    assert views[listing].input == NO_INPUT, "what was typed goes once the question is taken"
    assert first.conversation_id
    assert {view.conversation_id for view in views} == {first.conversation_id, None}
    assert all(view.input is None for n, view in enumerate(views) if n != listing), "what is typed meanwhile stays"
    assert {view.answering for view in views[: listing + 1]} == {True}
    assert views[listing].begun
    assert all(view == PageUpdate(view.history, view.live) for view in views[listing + 1 : -1]), "then nothing but the answer"
    assert last.answering is False
    assert texts_shown(last) == ["Hello?", "Hi there"]
    assert "finished" in last.history[1]["content"][1]["text"]
    assert last.conversations == [ListedConversation("Hello?", first.conversation_id)]
    assert chat.stored_texts(first.conversation_id) == ["Hello?", "Hi there"]
    assert chat.store.list(OTHER_OWNER.owner) == []


async def test_a_follow_up_question_continues_the_conversation(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    views = await chat.answered(chat.ask("And now?", conversation_id=id), "Still here.")
    assert texts_shown(views[0])[:3] == ["Hello?", "Hi.", "And now?"]
    assert texts_shown(views[-1]) == chat.stored_texts(id) == ["Hello?", "Hi.", "And now?", "Still here."]
    assert views[-1].conversations == [ListedConversation("a talk", id)]


async def test_a_question_with_an_image_shows_and_sends_the_image(chat, tmp_path) -> None:
    path = image_file(tmp_path)
    views = await chat.answered(chat.ask("What is it?", path), "A square.")
    for view in views:
        assert image_shown(view).props["alt_text"] == "square.png, 40 × 30 pixels"
        assert preview_path(view) == chat.service._image_files.preview_file(chat.service._image_files._name(digest_of(path)))
        assert texts_shown(view)[0] == "What is it?"
    assert "saw square.png, 40 × 30 px" in views[-1].history[1]["content"][1]["text"]
    sent = chat.backend.requests[0].image
    assert (sent.name, sent.width, sent.height) == ("square.png", 40, 30)


async def test_an_image_alone_is_a_question(chat, tmp_path) -> None:
    views = await chat.answered(chat.ask("", image_file(tmp_path)), "A square.")
    assert texts_shown(views[-1])[0] == ""
    assert [view.title for view in views if view.title is not None] == ["square.png"]


async def test_the_prompt_is_made_from_the_stored_messages_alone(chat) -> None:
    """The service gets an id and no history: only the stored messages reach the model."""
    id = chat.store_conversation("Hello?", "Hi.")
    await chat.answered(chat.ask("  And now?\n", conversation_id=id), "Yes.")
    prompt = "".join(map(chr, chat.backend.requests[0].prompt_ids))
    assert [prompt.count(text) for text in ("Hello?", "Hi.", "And now?")] == [1, 1, 1]
    assert chat.stored_texts(id)[2] == "And now?"


async def test_retry_answers_the_last_question_again(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.", "And now?", "No.")
    views = await chat.answered(chat.retry(id), "Yes.")
    assert texts_shown(views[0])[:3] == ["Hello?", "Hi.", "And now?"]
    assert texts_shown(views[0])[3].startswith(PROGRESS)
    assert texts_shown(views[-1]) == chat.stored_texts(id) == ["Hello?", "Hi.", "And now?", "Yes."]
    assert all(view.input is None for view in views), "what is typed stays"
    assert [view.answering for view in (views[0], views[-1])] == [True, False]


async def test_retry_answers_a_question_that_has_no_answer_yet(chat) -> None:
    id = chat.store_conversation("Hello?")
    await chat.answered(chat.retry(id), "Hi.")
    assert chat.stored_texts(id) == ["Hello?", "Hi."]


async def test_continue_goes_on_with_an_answer_that_stopped_at_max_tokens(chat) -> None:
    chat.backend.info = replace(chat.backend.info, capabilities=frozenset({"images", "continue"}))
    seen = await chat.begun(chat.ask("A story?"), "Once upon ")
    chat.backend.send(finished("max_tokens"))
    view = (await seen.all())[-1]
    assert "Continue" in metadata_shown(view)
    views = await chat.answered(chat.show(chat.service.questions.go_on(PAGE, seen.id)), "a time.")
    request = chat.backend.requests[-1]
    assert (request.answered, request.prompt_ids[-10:]) == (10, tuple(map(ord, "Once upon ")))
    assert texts_shown(views[-1]) == chat.stored_texts(seen.id) == ["A story?", "Once upon a time."]
    assert "2 / 2" in metadata_shown(views[-1]), "the shorter answer stays as a version"
    assert "13 tokens" in metadata_shown(views[-1]), "3 new ones, and those of the beginning"
    stored = chat.store.load(PAGE.owner, seen.id).messages[-1].metadata["sampling"]
    assert stored["max_tokens"] == 10 + request.sampling.max_tokens, "with which Explore gets the whole answer at once"
    assert "Continue" not in metadata_shown(views[-1])
    with pytest.raises(BadRequest, match="This answer is complete"):
        await chat.service.questions.go_on(PAGE, seen.id)


async def test_a_continue_that_is_stopped_before_a_word_came_shows_the_answer_as_it_was(chat) -> None:
    chat.backend.info = replace(chat.backend.info, capabilities=frozenset({"images", "continue"}))
    seen = await chat.begun(chat.ask("A story?"), "Once upon")
    chat.backend.send(finished("max_tokens"))
    before = metadata_shown((await seen.all())[-1])
    going_on = CollectedUpdates(chat.show(chat.service.questions.go_on(PAGE, seen.id)))
    await chat.backend.taken()
    chat.backend.send(READ)
    await until(lambda: any(update.begun for update in going_on.updates), "the answer goes on")
    await chat.service.stop(PAGE, seen.id)
    view = (await going_on.all())[-1]
    assert texts_shown(view) == chat.stored_texts(seen.id) == ["A story?", "Once upon"]
    assert metadata_shown(view) == before, "with Continue, and without another version"


async def test_a_backend_that_cannot_go_on_with_an_answer_offers_no_continue(chat) -> None:
    seen = await chat.begun(chat.ask("A story?"), "Once upon ")
    chat.backend.send(finished("max_tokens"))
    assert "Continue" not in metadata_shown((await seen.all())[-1])
    with pytest.raises(BadRequest, match="cannot go on"):
        await chat.service.questions.go_on(PAGE, seen.id)
    assert chat.stored_texts(seen.id) == ["A story?", "Once upon "]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda error: type(error).__name__)
async def test_a_refused_continue_keeps_the_answer_on_the_page_and_can_be_repeated(chat, refusal: DemoError) -> None:
    chat.backend.info = replace(chat.backend.info, capabilities=frozenset({"images", "continue"}))
    seen = await chat.begun(chat.ask("A story?"), "Once upon")
    chat.backend.send(finished("max_tokens"))
    await seen.all()
    chat.backend.refusal = refusal
    views, sentence = await refused_updates(chat.show(chat.service.questions.go_on(PAGE, seen.id)), DemoError)
    assert sentence == str(refusal)
    assert texts_shown(views[-1]) == chat.stored_texts(seen.id) == ["A story?", "Once upon"]
    assert "Continue" in metadata_shown(views[-1])
    assert views[-1].answering is False
    chat.backend.refusal = None
    await chat.answered(chat.show(chat.service.questions.go_on(PAGE, seen.id)), " a time.")
    assert chat.stored_texts(seen.id) == ["A story?", "Once upon a time."]


async def test_edit_replaces_the_question_and_all_that_followed(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.", "And now?", "No.")
    views = await chat.answered(chat.edit(id, 0, " Good evening? "), "Good evening.")
    assert texts_shown(views[0])[0] == "Good evening?"
    assert len(texts_shown(views[0])) == 2, "what came after is gone at once"
    assert texts_shown(views[-1]) == chat.stored_texts(id) == ["Good evening?", "Good evening."]
    assert all(view.input is None for view in views)


async def test_an_edited_question_keeps_its_image(chat, tmp_path) -> None:
    id = chat.store_image_conversation(image_file(tmp_path))
    views = await chat.answered(chat.edit(id, 0, ""), "A square.")
    assert chat.backend.requests[0].image.name == "square.png"
    assert preview_path(views[-1]).is_file()
    assert chat.stored_texts(id) == ["", "A square."]


async def test_the_image_of_an_edited_question_is_removed(chat, tmp_path) -> None:
    id = chat.store_image_conversation(image_file(tmp_path))
    await chat.answered(chat.edit(id, 0, "And without it?", image="remove"), "No idea.")
    assert chat.backend.requests[0].image is None
    assert chat.store.load(PAGE.owner, id).messages[0].image is None


async def test_the_image_of_an_edited_question_is_replaced(chat, tmp_path) -> None:
    id = chat.store_image_conversation(image_file(tmp_path))
    other = image_file(tmp_path, "other.png", (20, 20))
    await chat.answered(chat.edit(id, 0, "And this?", image="replace", file=other), "Another square.")
    assert chat.backend.requests[0].image.name == "other.png"
    assert [node.message.image.name for node in chat.store.tree(PAGE.owner, id).nodes if node.message.image] == [
        "square.png",
        "other.png",
    ]


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"number": "0", "text": "x", "image": "keep"},
        {"number": -1, "text": "x", "image": "keep"},
        {"number": 0, "text": None, "image": "keep"},
        {"number": 0, "text": "x", "image": "steal"},
        {"number": 0, "text": "x", "image": "replace"},
        {"number": 0, "text": "x", "image": "replace", "file": "/etc/passwd"},
        {"number": 0, "text": "x", "image": "replace", "file": "\0"},
    ],
)
def test_an_edit_that_the_editor_does_not_send_is_refused(data) -> None:
    with pytest.raises(BadRequest):
        QuestionEdit.of(data)


@pytest.mark.parametrize(
    "text", ["Is <b>this</b> bold?", "Is 1 < 2 && 3 > 2?", "What does &lt; mean?", "And <!-- this -->?", "a\n\nb"]
)
async def test_a_question_is_shown_as_typed_and_stored_as_typed(chat, text: str) -> None:
    views = await chat.answered(chat.ask(text), "Well.")
    for view in views:
        assert texts_shown(view)[0] == text
    assert chat.stored_texts(views[-1].conversation_id)[0] == text


async def test_undo_puts_the_question_into_the_question_field(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.", "And now?", "No.")
    view = await chat.service.undo(PAGE, id)
    assert texts_shown(view) == chat.stored_texts(id) == ["Hello?", "Hi."]
    assert view.input == {"text": "And now?", "files": []}
    assert view.conversation_id == id
    assert chat.backend.requests == []


async def test_undo_attaches_the_original_image_again(chat, tmp_path) -> None:
    path = image_file(tmp_path)
    id = chat.store_image_conversation(path)
    view = await chat.service.undo(PAGE, id)
    assert view.history == []
    [file] = view.input["files"]
    assert Path(file) == chat.service.previews / "attached" / chat.service._image_files._name(digest_of(path)) / path.name
    assert Path(file).read_bytes() == path.read_bytes()
    views = await chat.answered(chat.begin(chat.service.questions.ask(PAGE, id, view.input)), "A square.")
    assert chat.backend.requests[0].image.name == path.name
    assert texts_shown(views[-1]) == ["What is it?", "A square."]
