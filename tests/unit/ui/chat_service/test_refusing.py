"""What the chat refuses, by name: strangers, forged ids, busy backends, hostile files, texts too long."""

from __future__ import annotations

from typing import Any

import pytest

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.errors import BadRequest, DemoError, ImageError, NotFound
from mllama_demo.ui.page_update import NO_INPUT
from mllama_demo.ui.user_message import MAX_QUESTION_CHARACTERS
from tests.support.chat_setup import (
    ACTS,
    CHANGES,
    PAGE,
    REFUSALS,
    STRANGER,
    ChatSetup,
    Seen,
    lines,
    nothing_open,
    picture,
    preview_of,
    refused,
    sampling,
    value,
)
from tests.support.manual_backend import finished

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("act", [act for act in ACTS if act != "stop"])
async def test_a_conversation_of_another_owner_is_not_found_and_nothing_of_it_is_shown(house, act: str) -> None:
    id = house.keep("Hello?", "Hi.")
    with pytest.raises(NotFound) as caught:
        await ACTS[act](house, id, STRANGER)
    assert str(caught.value) == f"There is no conversation {id}."
    assert house.kept(id) == ["Hello?", "Hi."]
    assert house.store.list(PAGE.owner)[0].title == "a talk"
    assert house.backend.requests == []


@pytest.mark.parametrize("whose", ["one's own", "another owner's", "nobody's", "no"])
async def test_stop_where_nothing_is_under_way_is_ignored(house, whose: str) -> None:
    """The page may press Stop a moment after the end."""
    mine, theirs = house.keep("Hello?", "Hi."), house.keep("Something else?", "Sure.", visit=STRANGER)
    id = {"one's own": mine, "another owner's": theirs, "nobody's": "0" * 32, "no": ""}[whose]
    seen = await house.begun(house.ask("And this?"), "Well, ")
    await house.room.stop(PAGE, id)
    house.backend.say("hello")
    house.backend.send(finished())
    assert lines((await seen.to_the_end())[-1]) == ["And this?", "Well, hello"], "other answers go on"
    assert house.backend.cancelled == []
    assert house.kept(mine) == ["Hello?", "Hi."]
    assert [message.text for message in house.store.load(STRANGER.owner, theirs).messages] == ["Something else?", "Sure."]


async def test_a_stranger_who_knows_the_id_cannot_open_watch_or_end_an_answer(house) -> None:
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    id = seen.id
    assert await Seen(house.open(STRANGER, id)).to_the_end() == [nothing_open(input=None)]
    assert await house.room.stop(STRANGER, id) is None, "ignored, as if nothing were under way"
    with pytest.raises(NotFound):
        await house.room.delete(STRANGER, id)
    assert house.backend.cancelled == []
    house.backend.say("hello")
    house.backend.send(finished())
    assert lines((await seen.to_the_end())[-1]) == house.kept(id) == ["Hello?", "Well, hello"]
    assert "finished" in seen.views[-1].history[1]["content"][1]["text"]


async def test_a_stranger_does_not_learn_from_undo_or_rename_that_an_answer_is_under_way(house) -> None:
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    id = seen.id
    for attempt in (house.room.undo(STRANGER, id), house.room.rename(STRANGER, id, "mine")):
        with pytest.raises(NotFound):
            await attempt
    house.backend.send(finished())
    await seen.to_the_end()


@pytest.mark.parametrize("verb", ["ask", "retry", "edit"])
async def test_a_forged_id_shows_not_a_single_view(house, verb: str) -> None:
    id = house.keep("Hello?", "Hi.")
    streams = {
        "ask": lambda: house.ask("And now?", conversation_id=id, visit=STRANGER),
        "retry": lambda: house.retry(id, STRANGER),
        "edit": lambda: house.edit(id, 0, "Good evening?", STRANGER),
    }
    views, _ = await refused(streams[verb](), NotFound)
    assert views == []


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda error: type(error).__name__)
async def test_a_refused_first_question_goes_back_into_the_input(house, tmp_path, refusal: DemoError) -> None:
    house.backend.refusal = refusal
    typed = value("What is it?", picture(tmp_path))
    views, sentence = await refused(house.room.ask(PAGE, "", typed, sampling), type(refusal))
    assert sentence == str(refusal)
    last = views[-1]
    assert (last.history, last.conversation_id, last.input, last.answering) == ([], "", typed, False)
    assert house.store.list(PAGE.owner) == []


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("verb", ["ask", "retry", "edit"])
async def test_a_refused_question_leaves_the_conversation_and_the_page_as_they_were(house, verb: str, refusal: DemoError) -> None:
    id = house.keep("Hello?", "Hi.")
    house.backend.refusal = refusal
    streams = {
        "ask": lambda: house.ask("And now?", conversation_id=id),
        "retry": lambda: house.retry(id),
        "edit": lambda: house.edit(id, 0, "Good evening?"),
    }
    views, sentence = await refused(streams[verb](), type(refusal))
    assert sentence == str(refusal)
    assert (lines(views[-1]), views[-1].answering) == (["Hello?", "Hi."], False)
    assert views[-1].conversation_id in (id, None)
    assert views[-1].input == {"ask": value("And now?"), "retry": None, "edit": value("Good evening?")}[verb], "nothing is lost"
    assert house.kept(id) == ["Hello?", "Hi."]

    house.backend.refusal = None
    await house.answered(streams[verb](), "Yes.")
    assert house.kept(id)[-1] == "Yes.", "nothing keeps the next try from working"


async def test_an_answer_that_fails_in_the_middle_leaves_the_question_and_a_sentence(house) -> None:
    seen = await house.begun(house.ask("Hello?"), "Well, ")
    house.backend.send(RuntimeError("secret_internals"))
    with pytest.raises(DemoError) as caught:
        await seen.to_the_end()
    views, sentence = seen.views, str(caught.value)
    assert "secret_internals" not in sentence
    assert (lines(views[-1]), views[-1].answering) == (["Hello?"], False)
    assert house.kept(views[-1].conversation_id) == ["Hello?"]


@pytest.mark.parametrize("index", [-4, -2, -1, 1, 3, 4, 10**6])
async def test_only_a_question_of_the_conversation_can_be_edited(house, index: int) -> None:
    id = house.keep("Hello?", "Hi.", "And now?", "No.")
    views, sentence = await refused(house.edit(id, index, "Good evening?"), BadRequest)
    assert sentence == "Only a question can be edited."
    assert (lines(views[-1]), views[-1].input) == (house.kept(id), value("Good evening?"))
    assert house.kept(id) == ["Hello?", "Hi.", "And now?", "No."]


async def test_a_question_is_not_edited_into_nothing(house) -> None:
    id = house.keep("Hello?", "Hi.")
    views, sentence = await refused(house.edit(id, 0, "  \n"), BadRequest)
    assert sentence == "A question needs a few words or an image."
    assert (lines(views[-1]), views[-1].input) == (["Hello?", "Hi."], NO_INPUT)
    assert house.kept(id) == ["Hello?", "Hi."]


@pytest.mark.parametrize("verb", ["retry", "undo"])
async def test_without_a_question_there_is_nothing_to_go_back_to(house, verb: str) -> None:
    id = house.keep()
    with pytest.raises(BadRequest, match="no question to go back to"):
        await CHANGES[verb](house, id, PAGE)


async def refusal_of(house: ChatSetup, sent: dict[str, Any], error: type[DemoError] = BadRequest) -> str:
    """The sentence for what the input box sent; nothing may be shown, stored or asked."""

    views, sentence = await refused(house.room.ask(PAGE, "", sent, sampling), error)
    assert views == []
    assert house.store.list(PAGE.owner) == []
    assert house.backend.requests == []
    return sentence


@pytest.mark.parametrize("sent", [value(), value(" \n\t"), {}, {"text": None, "files": None}])
async def test_an_empty_question_is_refused(house, sent: dict[str, Any]) -> None:
    assert await refusal_of(house, sent) == "Type a question, or add an image."


async def test_more_images_than_can_be_shown_together_are_refused(house, tmp_path) -> None:
    sent = value("WhichImage?", *(picture(tmp_path, f"{n}.png") for n in range(5)))
    assert await refusal_of(house, sent) == "A question takes at most 4 images, this one has 5."


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
async def test_a_hostile_file_is_refused_by_its_name(house, tmp_path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert name in await refusal_of(house, value("What is it?", tmp_path / name), ImageError)


async def test_a_file_given_as_the_browser_describes_it_is_read_too(house, tmp_path) -> None:
    sent = {"text": "What is it?", "files": [{"path": str(picture(tmp_path)), "orig_name": "square.png"}]}
    views = await house.answered(house.room.ask(PAGE, "", sent, sampling), "A square.")
    assert preview_of(views[-1]).is_file()


@pytest.mark.parametrize(("limit", "said"), [(3 * 2**20, "3 M"), (1536, "1.5 K"), (1024, "1 K")])
async def test_a_file_too_large_is_refused_with_its_name_and_the_limit(tmp_path, limit: int, said: str) -> None:
    house = ChatSetup(max_image_bytes=limit)
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(limit + 1)
    sentence = await refusal_of(house, value("What is it?", path))
    assert "huge.png" in sentence
    assert f" {said}" in sentence
    house.close()


async def test_a_file_that_is_no_longer_there_is_refused_by_its_name(house, tmp_path) -> None:
    """Uploads are cleared away after a day; a page may be open for longer."""
    assert "yesterday.png" in await refusal_of(house, value("What is it?", tmp_path / "yesterday.png"))


async def test_a_text_too_long_is_refused_with_both_lengths(house) -> None:
    sentence = await refusal_of(house, value("x" * (MAX_QUESTION_CHARACTERS + 1)))
    assert f"{MAX_QUESTION_CHARACTERS + 1} characters" in sentence
    assert f"at most {MAX_QUESTION_CHARACTERS}" in sentence


async def test_a_text_of_the_greatest_length_is_asked(house) -> None:
    said = "x" * MAX_QUESTION_CHARACTERS
    views = await house.answered(house.ask(f"  {said}\n"), "Long.")
    assert lines(views[-1]) == [said, "Long."]


async def test_an_edit_too_long_is_refused_too(house) -> None:
    id = house.keep("Hello?", "Hi.")
    views, sentence = await refused(house.edit(id, 0, "x" * (MAX_QUESTION_CHARACTERS + 1)), BadRequest)
    assert len(views[-1].input["text"]) > MAX_QUESTION_CHARACTERS
    assert f"at most {MAX_QUESTION_CHARACTERS}" in sentence
    assert house.kept(id) == ["Hello?", "Hi."]


async def test_half_a_character_is_refused_with_a_sentence() -> None:
    """A lone surrogate is what is left of an emoji cut in two; neither the tokenizer nor the database takes one."""
    house = ChatSetup(tokenizer=Tokenizer(EMBEDDED_CHECKPOINT))
    await refused(house.ask("Look \ud83d"), BadRequest)
    assert house.store.list(PAGE.owner) == []
    house.close()
