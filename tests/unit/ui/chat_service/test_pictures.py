"""ImageFiles in a chat without a browser: which one the model sees, and what the browser gets of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mllama_demo.errors import BadRequest
from mllama_demo.images.loading import load_image
from mllama_demo.ui import image_files as pictures
from mllama_demo.ui.page_update import PageUpdate
from tests.support.chat_setup import PAGE, PLACE, ChatSetup, bar, opened, picture, preview_of, refused, sampling, value

pytestmark = pytest.mark.timeout(60)


# --- several images ------------------------------------------------------------------------------------------------------


async def asked_with(house: ChatSetup, id: str, which: Any, *files: Path) -> PageUpdate:
    return (await house.answered(house.page(house.room.ask(PAGE, id, value("WhichImage?", *files), sampling, which)), "This."))[
        -1
    ]


async def test_a_new_image_is_what_the_model_sees_unless_another_is_chosen(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path, "old.png"))
    new = picture(tmp_path, "new.png", (30, 40))
    assert "saw new.png" in bar(await asked_with(house, id, "newest", new))
    assert house.backend.requests[-1].image.name == "new.png"


async def test_the_first_image_can_be_kept_and_the_other_is_said_to_be_set_aside(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path, "old.png"))
    view = await asked_with(house, id, "first", picture(tmp_path, "new.png", (30, 40)))
    assert house.backend.requests[-1].image.name == "old.png"
    assert "saw old.png" in bar(view)
    assert "set aside: new.png" in bar(view)


async def test_two_images_can_be_seen_side_by_side(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path, "old.png", (40, 30)))
    view = await asked_with(house, id, "together", picture(tmp_path, "new.png", (60, 60)))
    sent = house.backend.requests[-1].image
    assert (sent.name, sent.width, sent.height) == ("old.png + new.png", 80 + 16 + 60, 60)
    assert "saw old.png + new.png" in bar(view)


@pytest.mark.parametrize(("which", "seen", "aside"), [("newest", "b.png", "a.png"), ("first", "a.png", "b.png")])
async def test_of_two_images_in_one_question_one_is_seen_and_the_other_named(house, tmp_path, which, seen, aside) -> None:
    view = await asked_with(house, "", which, picture(tmp_path, "a.png"), picture(tmp_path, "b.png", (30, 40)))
    assert house.backend.requests[-1].image.name == seen
    assert f"set aside: {aside}" in bar(view)


async def test_a_choice_that_there_is_not_is_refused(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path, "old.png"))
    sent = value("WhichImage?", picture(tmp_path, "new.png"))
    _, sentence = await refused(house.room.ask(PAGE, id, sent, sampling, "best"), BadRequest)
    assert "newest, first or together, not 'best'" in sentence


async def test_before_a_second_image_is_sent_the_page_asks_and_shows_what_would_be_seen(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path, "old.png"))
    sent = value("", picture(tmp_path, "new.png", (30, 40)))

    async def scene(which: Any, id: str, sent: dict[str, Any]) -> tuple[Any, str]:
        return await house.room.images.attached(PAGE, id, sent, which)

    choice, sight = await scene("newest", id, sent)
    assert [label for label, _ in choice.options] == [
        "The new one: new.png", "Stay with old.png", "Both side by side, as one picture",
    ]  # fmt: skip
    assert "new.png, 30 × 40 px" in sight
    assert "old.png, 40 × 30 px" in (await scene("first", id, sent))[1]
    assert "old.png + new.png" in (await scene("together", id, sent))[1]
    assert (await scene("newest", id, value("")))[0] is None
    assert (await scene("newest", "", sent))[0] is None, "one image alone needs no choice"
    assert "new.png" in (await scene("newest", "not stored yet", sent))[1]


async def test_a_file_that_is_no_image_is_said_to_be_none_before_it_is_sent(house, tmp_path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"<!doctype html><script>alert(1)</script>")
    _, sight = await house.room.images.attached(PAGE, "", value("", tmp_path / "page.jpg"), "newest")
    assert "page.jpg" in sight
    assert "not an image" in sight


async def test_what_an_answer_saw_can_be_looked_at_later(house, tmp_path) -> None:
    id = house.keep_picture(picture(tmp_path, "old.png"))
    await asked_with(house, id, "newest", picture(tmp_path, "new.png", (30, 40)))
    assert "old.png, 40 × 30 px" in await house.room.images.look(PAGE, id, 1)
    assert "new.png, 30 × 40 px" in await house.room.images.look(PAGE, id, 3)
    other = house.keep("Hello?", "Hi.")
    with pytest.raises(BadRequest, match="saw no image"):
        await house.room.images.look(PAGE, other, 1)


# --- images --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), [("holiday.jpg", {}), ("holiday.webp", {"lossless": True}), ("holiday.png", {})])
async def test_what_the_browser_shows_has_no_metadata(house, tmp_path, name: str, options: dict[str, Any]) -> None:
    path = picture(tmp_path, name, exif=True, **options)
    assert PLACE.encode() in path.read_bytes(), "the original has it"
    views = await house.answered(house.ask("Where?", path), "Who knows.")
    shown = preview_of(views[-1])
    assert PLACE.encode() not in shown.read_bytes()
    with Image.open(shown) as image:
        assert (image.format, image.size, dict(image.getexif())) == ("WEBP", (40, 30), {})


async def test_a_picture_that_is_named_like_a_preview_is_not_shown_in_its_place(house, tmp_path) -> None:
    path = picture(tmp_path, "preview.webp", exif=True)
    id = house.keep_picture(path)
    [view] = await opened(house, PAGE, id)
    assert PLACE.encode() not in preview_of(view).read_bytes()
    taken_back = await house.room.undo(PAGE, id)
    assert Path(taken_back.input["files"][0]).read_bytes() == path.read_bytes()
    views = await house.answered(house.room.ask(PAGE, id, taken_back.input, sampling), "A square.")
    assert PLACE.encode() not in preview_of(views[-1]).read_bytes()


async def test_a_huge_picture_is_shown_small(house, tmp_path) -> None:
    views = await house.answered(house.ask("What is it?", picture(tmp_path, size=(3000, 1500))), "A square.")
    with Image.open(preview_of(views[-1])) as image:
        assert image.size == (1024, 512)


async def test_a_fetched_picture_becomes_a_file_to_attach(house, tmp_path, monkeypatch) -> None:
    data = picture(tmp_path).read_bytes()
    asked: list[Any] = []

    def fetch(url: str, limits: Any, *, allowed_hosts: Any) -> Any:
        asked.append((url, limits, allowed_hosts))
        return load_image(data, "../../a/b?c.png")

    monkeypatch.setattr(pictures, "fetch_image", fetch)
    path = Path(await house.room.images.fetch("  https://example.com/a.png "))
    assert asked == [("https://example.com/a.png", house.answerer.limits, [])]
    assert path.read_bytes() == data
    assert path.suffix == ".png"
    assert path.resolve().is_relative_to(house.room.previews.resolve())


@pytest.mark.parametrize("url", ["", "  ", None])
async def test_fetching_without_an_address_is_refused(house, url: Any) -> None:
    with pytest.raises(BadRequest, match="Enter the address"):
        await house.room.images.fetch(url)


async def test_the_pictures_are_gone_with_the_room(house, tmp_path) -> None:
    views = await house.answered(house.ask("What is it?", picture(tmp_path)), "A square.")
    assert preview_of(views[-1]).is_relative_to(house.room.previews)
    house.room.close()
    assert not preview_of(views[-1]).exists()
    assert not house.room.previews.exists()
