# pyright: reportOptionalSubscript=false
"""What the chat refuses: other owners, forged ids, questions to a busy backend, hostile files, and texts that are too long."""

from __future__ import annotations

from typing import Any

import pytest

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.errors import BackendUnavailable, BadRequest, DemoError, ImageError, NotFound
from mllama_demo.ui.page_update import NO_INPUT
from mllama_demo.ui.user_message import MAX_QUESTION_CHARACTERS
from tests.support.chat_setup import (
    ACTIONS,
    CHANGES,
    OTHER_OWNER,
    PAGE,
    REFUSALS,
    ChatSetup,
    CollectedUpdates,
    image_file,
    metadata_shown,
    new_chat,
    preview_path,
    refused_updates,
    texts_shown,
    value,
)
from tests.support.manual_backend import finished

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("act", [act for act in ACTIONS if act != "stop"])
async def test_a_conversation_of_another_owner_is_not_found_and_nothing_of_it_is_shown(chat, act: str) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    with pytest.raises(NotFound) as caught:
        await ACTIONS[act](chat, id, OTHER_OWNER)
    assert str(caught.value) == f"There is no conversation {id}."
    assert chat.stored_texts(id) == ["Hello?", "Hi."]
    assert chat.store.list(PAGE.owner)[0].title == "a talk"
    assert chat.backend.requests == []


@pytest.mark.parametrize("whose", ["one's own", "another owner's", "nobody's", "no"])
async def test_stop_without_an_answer_in_progress_is_ignored(chat, whose: str) -> None:
    """The visitor may press Stop just after the answer is complete."""
    mine, theirs = (
        chat.store_conversation("Hello?", "Hi."),
        chat.store_conversation("Something else?", "Sure.", session=OTHER_OWNER),
    )
    id = {"one's own": mine, "another owner's": theirs, "nobody's": "0" * 32, "no": ""}[whose]
    seen = await chat.begun(chat.ask("And this?"), "Well, ")
    await chat.service.stop(PAGE, id)
    chat.backend.say("hello")
    chat.backend.send(finished())
    assert texts_shown((await seen.all())[-1]) == ["And this?", "Well, hello"], "other answers go on"
    assert chat.backend.cancelled == []
    assert chat.stored_texts(mine) == ["Hello?", "Hi."]
    assert [message.text for message in chat.store.load(OTHER_OWNER.owner, theirs).messages] == ["Something else?", "Sure."]


async def test_another_owner_who_knows_the_id_cannot_open_follow_or_stop_an_answer(chat) -> None:
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    id = seen.id
    assert await CollectedUpdates(chat.open(OTHER_OWNER, id)).all() == [new_chat()]
    assert await chat.service.stop(OTHER_OWNER, id) is None, "ignored, as if nothing were under way"
    with pytest.raises(NotFound):
        await chat.service.delete(OTHER_OWNER, id)
    assert chat.backend.cancelled == []
    chat.backend.say("hello")
    chat.backend.send(finished())
    assert texts_shown((await seen.all())[-1]) == chat.stored_texts(id) == ["Hello?", "Well, hello"]
    assert "finished" in seen.updates[-1].history[1]["content"][1]["text"]


async def test_undo_and_rename_do_not_reveal_another_owners_answer_in_progress(chat) -> None:
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    id = seen.id
    for attempt in (chat.service.undo(OTHER_OWNER, id), chat.service.rename(OTHER_OWNER, id, "mine")):
        with pytest.raises(NotFound):
            await attempt
    chat.backend.send(finished())
    await seen.all()


@pytest.mark.parametrize("verb", ["ask", "retry", "edit"])
async def test_a_forged_id_gets_no_update(chat, verb: str) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    streams = {
        "ask": lambda: chat.ask("And now?", conversation_id=id, session=OTHER_OWNER),
        "retry": lambda: chat.retry(id, OTHER_OWNER),
        "edit": lambda: chat.edit(id, 0, "Good evening?", OTHER_OWNER),
    }
    views, _ = await refused_updates(streams[verb](), NotFound)
    assert views == []


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("verb", ["first", "ask", "retry", "edit"])
async def test_a_question_whose_answer_fails_stays_in_the_conversation_with_a_sentence(
    chat, verb: str, refusal: DemoError
) -> None:
    id = "" if verb == "first" else chat.store_conversation("Hello?", "Hi.")
    chat.backend.refusal = refusal
    streams = {
        "first": lambda: chat.ask("And now?"),
        "ask": lambda: chat.ask("And now?", conversation_id=id),
        "retry": lambda: chat.retry(id),
        "edit": lambda: chat.edit(id, 0, "Good evening?"),
    }
    shown = {
        "first": ["And now?", ""],
        "ask": ["Hello?", "Hi.", "And now?", ""],
        "retry": ["Hello?", ""],
        "edit": ["Good evening?", ""],
    }[verb]
    last = (await CollectedUpdates(streams[verb]()).all())[-1]
    assert (last.answering, last.failed) == (False, True)
    assert last.input == (NO_INPUT if verb in ("first", "ask") else None)
    assert str(refusal) in metadata_shown(last)
    assert "Try again" in metadata_shown(last)
    id = last.conversation_id
    assert chat.stored_texts(id) == shown

    chat.backend.refusal = None
    views = await chat.answered(chat.retry(id), "Yes.")
    assert chat.stored_texts(id) == [*shown[:-1], "Yes."]
    assert [failure in metadata_shown(views[-1]) for failure in ("Try again", str(refusal))] == [False, False]
    if verb in ("first", "ask"):
        assert "versions" not in metadata_shown(views[-1]), "what never began is no version of the answer"


async def test_the_next_question_is_answered_without_the_failed_one_and_with_its_image(chat, tmp_path) -> None:
    chat.backend.refusal = BackendUnavailable("The model is still loading.")
    failed = (await CollectedUpdates(chat.ask("What is it?", image_file(tmp_path))).all())[-1]
    chat.backend.refusal = None
    await chat.answered(chat.ask("And its colour?", conversation_id=failed.conversation_id), "Green.")
    [request] = chat.backend.requests
    assert [(message.role, message.text) for message in request.messages] == [("user", "And its colour?")]
    assert request.image is not None


async def test_an_answer_that_fails_in_the_middle_keeps_its_text_and_a_sentence(chat) -> None:
    seen = await chat.begun(chat.ask("Hello?"), "Well, ")
    chat.backend.send(RuntimeError("secret_internals"))
    view = (await seen.all())[-1]
    assert (texts_shown(view), view.answering) == (["Hello?", "Well,"], False)
    assert "Something went wrong" in metadata_shown(view)
    assert "secret_internals" not in metadata_shown(view)
    assert chat.stored_texts(view.conversation_id) == ["Hello?", "Well, "]


@pytest.mark.parametrize("number", [-1, 1, 3, 4, 10**6])
async def test_only_a_question_of_the_conversation_can_be_edited(chat, number: int) -> None:
    id = chat.store_conversation("Hello?", "Hi.", "And now?", "No.")
    _, sentence = await refused_updates(chat.edit(id, number, "Good evening?"), BadRequest)
    assert sentence == "Only a question can be edited."
    assert chat.stored_texts(id) == ["Hello?", "Hi.", "And now?", "No."]


async def test_a_question_is_not_edited_into_nothing(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    _, sentence = await refused_updates(chat.edit(id, 0, "  \n"), BadRequest)
    assert sentence == "A question needs a few words or an image."
    assert chat.stored_texts(id) == ["Hello?", "Hi."]


async def test_a_file_that_is_no_image_is_no_image_of_an_edited_question(chat, tmp_path) -> None:
    id = chat.store_image_conversation(image_file(tmp_path))
    path = tmp_path / "words.png"
    path.write_text("words")
    await refused_updates(chat.edit(id, 0, "And this?", image="replace", file=path), ImageError)
    assert chat.store.load(PAGE.owner, id).messages[0].image.name == "square.png"


@pytest.mark.parametrize("verb", ["retry", "undo"])
async def test_without_a_question_there_is_nothing_to_go_back_to(chat, verb: str) -> None:
    id = chat.store_conversation()
    with pytest.raises(BadRequest, match="no question to go back to"):
        await CHANGES[verb](chat, id, PAGE)


async def refusal_of(chat: ChatSetup, sent: dict[str, Any], error: type[DemoError] = BadRequest) -> str:
    """The sentence of the refusal. Nothing may be shown, stored or sent to the backend."""

    views, sentence = await refused_updates(chat.begin(chat.service.questions.ask(PAGE, "", sent)), error)
    assert views == []
    assert chat.store.list(PAGE.owner) == []
    assert chat.backend.requests == []
    return sentence


@pytest.mark.parametrize("sent", [value(), value(" \n\t"), {}, {"text": None, "files": None}])
async def test_an_empty_question_is_refused(chat, sent: dict[str, Any]) -> None:
    assert await refusal_of(chat, sent) == "Type a question, or add an image."


async def test_more_images_than_can_be_shown_together_are_refused(chat, tmp_path) -> None:
    sent = value("WhichImage?", *(image_file(tmp_path, f"{n}.png") for n in range(5)))
    assert await refusal_of(chat, sent) == "A question takes at most 4 images, this one has 5."


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
async def test_a_hostile_file_is_refused_and_named(chat, tmp_path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert name in await refusal_of(chat, value("What is it?", tmp_path / name), ImageError)


async def test_a_file_given_as_the_browser_describes_it_is_read_too(chat, tmp_path) -> None:
    sent = {"text": "What is it?", "files": [{"path": str(image_file(tmp_path)), "orig_name": "square.png"}]}
    views = await chat.answered(chat.begin(chat.service.questions.ask(PAGE, "", sent)), "A square.")
    assert preview_path(views[-1]).is_file()


@pytest.mark.parametrize(("limit", "said"), [(3 * 2**20, "3 M"), (1536, "1.5 K"), (1024, "1 K")])
async def test_a_file_that_is_too_large_is_refused_with_name_and_limit(tmp_path, limit: int, said: str) -> None:
    chat = ChatSetup(max_image_bytes=limit)
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(limit + 1)
    sentence = await refusal_of(chat, value("What is it?", path))
    assert "huge.png" in sentence
    assert f" {said}" in sentence
    chat.close()


async def test_a_file_that_no_longer_exists_is_refused_and_named(chat, tmp_path) -> None:
    """Uploads are deleted after a day; a page may be open for longer."""
    assert "yesterday.png" in await refusal_of(chat, value("What is it?", tmp_path / "yesterday.png"))


async def test_a_text_that_is_too_long_is_refused_with_length_and_limit(chat) -> None:
    sentence = await refusal_of(chat, value("x" * (MAX_QUESTION_CHARACTERS + 1)))
    assert f"{MAX_QUESTION_CHARACTERS + 1} characters" in sentence
    assert f"at most {MAX_QUESTION_CHARACTERS}" in sentence


async def test_a_text_of_the_greatest_length_is_asked(chat) -> None:
    said = "x" * MAX_QUESTION_CHARACTERS
    views = await chat.answered(chat.ask(f"  {said}\n"), "Long.")
    assert texts_shown(views[-1]) == [said, "Long."]


async def test_an_edit_that_is_too_long_is_refused(chat) -> None:
    id = chat.store_conversation("Hello?", "Hi.")
    _, sentence = await refused_updates(chat.edit(id, 0, "x" * (MAX_QUESTION_CHARACTERS + 1)), BadRequest)
    assert f"at most {MAX_QUESTION_CHARACTERS}" in sentence
    assert chat.stored_texts(id) == ["Hello?", "Hi."]


async def test_a_lone_surrogate_is_refused() -> None:
    """Half of an emoji, which neither the tokenizer nor the database accepts."""
    chat = ChatSetup(tokenizer=Tokenizer(EMBEDDED_CHECKPOINT))
    await refused_updates(chat.ask("Look \ud83d"), BadRequest)
    assert chat.store.list(PAGE.owner) == []
    chat.close()
