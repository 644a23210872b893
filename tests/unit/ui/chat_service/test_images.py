"""Images without a browser: which image the model sees, and which files the page shows."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.errors import BadRequest, NotFound
from mllama_demo.images.loading import load_image
from mllama_demo.ui import image_files as pictures
from mllama_demo.ui.page_update import PageSession, PageUpdate
from tests.support.chat_setup import (
    OTHER_OWNER,
    PAGE,
    PLACE,
    ChatSetup,
    CollectedUpdates,
    image_file,
    metadata_shown,
    open_updates,
    preview_path,
    refused_updates,
    value,
)
from tests.support.manual_backend import READ, finished

pytestmark = pytest.mark.timeout(60)


# --- several images ------------------------------------------------------------------------------------------------------


async def asked_with(chat: ChatSetup, id: str, which: Any, *files: Path) -> PageUpdate:
    return (await chat.answered(chat.show(chat.service.questions.ask(PAGE, id, value("WhichImage?", *files), which)), "This."))[
        -1
    ]


async def test_with_first_the_model_keeps_its_image_and_the_other_is_set_aside(chat, tmp_path) -> None:
    id = chat.store_image_conversation(image_file(tmp_path, "old.png"))
    view = await asked_with(chat, id, "first", image_file(tmp_path, "new.png", (30, 40)))
    assert chat.backend.requests[-1].image.name == "old.png"
    assert "saw old.png" in metadata_shown(view)
    assert "set aside: new.png" in metadata_shown(view)


async def test_two_images_can_be_joined_side_by_side(chat, tmp_path) -> None:
    id = chat.store_image_conversation(image_file(tmp_path, "old.png", (40, 30)))
    view = await asked_with(chat, id, "together", image_file(tmp_path, "new.png", (60, 60)))
    sent = chat.backend.requests[-1].image
    assert (sent.name, sent.width, sent.height) == ("old.png + new.png", 80 + 16 + 60, 60)
    assert "saw old.png + new.png" in metadata_shown(view)


@pytest.mark.parametrize(("which", "seen", "aside"), [("newest", "b.png", "a.png"), ("first", "a.png", "b.png")])
async def test_of_two_images_in_one_question_one_is_set_aside(chat, tmp_path, which, seen, aside) -> None:
    view = await asked_with(chat, "", which, image_file(tmp_path, "a.png"), image_file(tmp_path, "b.png", (30, 40)))
    assert chat.backend.requests[-1].image.name == seen
    assert f"set aside: {aside}" in metadata_shown(view)


async def test_an_unknown_choice_of_image_is_refused(chat, tmp_path) -> None:
    id = chat.store_image_conversation(image_file(tmp_path, "old.png"))
    sent = value("WhichImage?", image_file(tmp_path, "new.png"))
    _, sentence = await refused_updates(chat.begin(chat.service.questions.ask(PAGE, id, sent, "best")), BadRequest)
    assert "newest, first or together, not 'best'" in sentence


async def test_a_second_image_is_previewed_for_each_choice(chat, tmp_path) -> None:
    id = chat.store_image_conversation(image_file(tmp_path, "old.png"))
    sent = value("", image_file(tmp_path, "new.png", (30, 40)))

    async def scene(which: Any, id: str, sent: dict[str, Any]) -> tuple[Any, str]:
        found = await chat.service.attachments.preview_question(PAGE, id, sent, which)
        return found.choice, found.tiles

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


async def test_the_preview_says_that_a_file_is_no_image(chat, tmp_path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"<!doctype html><script>alert(1)</script>")
    sent = value("", tmp_path / "page.jpg", image_file(tmp_path), image_file(tmp_path, "scan.tif"))
    found = await chat.service.attachments.preview_question(PAGE, "", sent, "together")
    assert "page.jpg" in found.tiles
    assert "not an image" in found.tiles
    refused, *accepted = found.files
    assert "page.jpg" in refused.refusal
    assert (refused.preview, found.choice.options[0][0]) == ("", "The last one: scan.tif")
    assert [(one.refusal, one.preview[-12:]) for one in accepted] == [("", "preview.webp")] * 2


async def test_a_file_is_decoded_once_and_the_fifth_one_not_at_all(chat, tmp_path, monkeypatch) -> None:
    decoded: list[str] = []

    def load(data: bytes, name: str, limits: Any) -> Any:
        decoded.append(name)
        return load_image(data, name, limits)

    monkeypatch.setattr(pictures, "load_image", load)
    files = [image_file(tmp_path, f"{number}.png", (30 + number, 30)) for number in range(1, 7)]
    found = await chat.service.attachments.preview_question(PAGE, "", value("", *files), "newest")
    assert [bool(one.preview) for one in found.files] == [True] * 4 + [False] * 2
    assert "at most 4 images; 5.png" in found.files[4].refusal
    assert "at most 4 images" in found.tiles
    assert decoded == ["1.png", "2.png", "3.png", "4.png"]
    decoded.clear()
    found = await chat.service.attachments.preview_question(PAGE, "", value("", *files[:4]), "newest")
    assert "4.png, 34 × 30 px" in found.tiles
    assert decoded == ["4.png"], "only what the tiles show"


async def test_a_picture_in_full_size_has_all_pixels_and_no_metadata(chat, tmp_path) -> None:
    id = chat.store_image_conversation(image_file(tmp_path, "photo.jpg", (1500, 1100), exif=True))
    image = chat.store.load(PAGE.owner, id).messages[0].image
    before = {path for path in chat.service.previews.rglob("*") if path.is_file()}
    data, media_type = await chat.service.image_access.full_size(PAGE.owner, image.digest)
    assert (Image.open(io.BytesIO(data)).size, media_type) == ((1500, 1100), "image/jpeg")
    assert PLACE.encode() not in data
    assert {path for path in chat.service.previews.rglob("*") if path.is_file()} == before, "no file is kept"


async def test_a_picture_in_full_size_is_shown_to_its_owner_until_it_is_deleted(chat, tmp_path) -> None:
    id = chat.store_image_conversation(image_file(tmp_path))
    digest = chat.store.load(PAGE.owner, id).messages[0].image.digest
    assert (await chat.service.image_access.full_size(PAGE.owner, digest))[1] == "image/png"
    for owner, asked in ((OTHER_OWNER.owner, digest), (PAGE.owner, "0" * 64), (PAGE.owner, "..%2f"), (PAGE.owner, "\0")):
        with pytest.raises(NotFound):
            await chat.service.image_access.full_size(owner, asked)
    await chat.service.delete(PAGE, id)
    with pytest.raises(NotFound):
        await chat.service.image_access.full_size(PAGE.owner, digest)


@pytest.mark.parametrize("owner", ["me", "session-without-cookie", "kiosk-page"])
async def test_a_preview_is_loaded_by_those_who_may_see_the_conversation(chat, tmp_path, owner) -> None:
    session = PageSession(owner, "page")
    image = chat.store.put_image(load_image(image_file(tmp_path).read_bytes(), "square.png"))
    id = chat.store.save(owner, Conversation((Message("user", "What is it?", image), Message("assistant", "A square.")))).id
    name = preview_path((await open_updates(chat, session, id))[-1]).parent.name
    access = chat.service.image_access
    assert await access.full_size(owner, name) == await access.full_size(owner, image.digest), "the page knows the name alone"
    cookieless = owner != "me"
    for other in (OTHER_OWNER.owner, None):
        if cookieless:  # the browser does not tell the page; the name is the secret
            assert (await access.preview(other, name)).is_file()
        else:
            with pytest.raises(NotFound):
                await access.preview(other, name)
    if not cookieless:
        assert (await access.preview(owner, name)).is_file()
    for guess in (image.digest, "..", ""):
        with pytest.raises(NotFound):
            await access.preview(owner, guess)
    await chat.service.delete(session, id)
    with pytest.raises(NotFound):
        await access.preview(owner, name)


async def test_a_picture_in_full_size_is_shown_while_its_question_waits(chat, tmp_path) -> None:
    path = image_file(tmp_path)
    asked = CollectedUpdates(chat.ask("What is it?", path))
    await chat.backend.taken()
    assert chat.store.list(PAGE.owner) == [], "nothing is stored before the answer begins"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (await chat.service.image_access.full_size(PAGE.owner, digest))[1] == "image/png"
    with pytest.raises(NotFound):
        await chat.service.image_access.full_size(OTHER_OWNER.owner, digest)
    chat.backend.send(READ)
    chat.backend.say("A square.")
    chat.backend.send(finished())
    await asked.all()


async def test_the_tiles_of_an_earlier_answer_can_be_shown(chat, tmp_path) -> None:
    id = chat.store_image_conversation(image_file(tmp_path, "old.png"))
    await asked_with(chat, id, "newest", image_file(tmp_path, "new.png", (30, 40)))
    assert "old.png, 40 × 30 px" in await chat.service.attachments.preview(PAGE, id, 1)
    assert "new.png, 30 × 40 px" in await chat.service.attachments.preview(PAGE, id, 3)
    other = chat.store_conversation("Hello?", "Hi.")
    with pytest.raises(BadRequest, match="saw no image"):
        await chat.service.attachments.preview(PAGE, other, 1)


# --- images --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), [("holiday.jpg", {}), ("holiday.webp", {"lossless": True}), ("holiday.png", {})])
async def test_previews_have_no_metadata(chat, tmp_path, name: str, options: dict[str, Any]) -> None:
    path = image_file(tmp_path, name, exif=True, **options)
    assert PLACE.encode() in path.read_bytes(), "the original has it"
    views = await chat.answered(chat.ask("Where?", path), "Who knows.")
    shown = preview_path(views[-1])
    assert PLACE.encode() not in shown.read_bytes()
    with Image.open(shown) as image:
        assert (image.format, image.size, dict(image.getexif())) == ("WEBP", (40, 30), {})


async def test_an_upload_named_like_a_preview_does_not_replace_the_preview(chat, tmp_path) -> None:
    path = image_file(tmp_path, "preview.webp", exif=True)
    id = chat.store_image_conversation(path)
    [view] = await open_updates(chat, PAGE, id)
    assert PLACE.encode() not in preview_path(view).read_bytes()
    taken_back = await chat.service.undo(PAGE, id)
    assert Path(taken_back.input["files"][0]).read_bytes() == path.read_bytes()
    views = await chat.answered(chat.begin(chat.service.questions.ask(PAGE, id, taken_back.input)), "A square.")
    assert PLACE.encode() not in preview_path(views[-1]).read_bytes()


async def test_a_huge_image_has_a_small_preview(chat, tmp_path) -> None:
    views = await chat.answered(chat.ask("What is it?", image_file(tmp_path, size=(3000, 1500))), "A square.")
    with Image.open(preview_path(views[-1])) as image:
        assert image.size == (1024, 512)


async def test_a_fetched_image_becomes_a_file_to_attach(chat, tmp_path, monkeypatch) -> None:
    data = image_file(tmp_path).read_bytes()
    asked: list[Any] = []

    async def fetch(url: str, limits: Any, allowed_hosts: Any) -> Any:
        asked.append((url, limits, allowed_hosts))
        return load_image(data, "../../a/b?c.png")

    monkeypatch.setattr(pictures, "image_at", fetch)
    path = Path(await chat.service.attachments.fetch("  https://example.com/a.png "))
    assert asked == [("https://example.com/a.png", chat.generation.limits, [])]
    assert path.read_bytes() == data
    assert path.suffix == ".png"
    assert path.resolve().is_relative_to(chat.service.previews.resolve())


async def test_files_of_questions_that_are_not_sent_are_deleted_after_a_while(chat, tmp_path, monkeypatch) -> None:
    first, second = image_file(tmp_path), image_file(tmp_path, "other.png", size=(50, 40))
    files = chat.service._image_files
    shown = Path(files.check(first, "ann").removeprefix("gradio_api/file="))
    [name] = [folder.name for folder in shown.parent.parent.iterdir()]
    assert files.uploaders(name) == {"ann"}
    files.check(first, "ben")
    assert files.uploaders(name) == {"ann", "ben"}
    monkeypatch.setattr(pictures, "UNSENT_LIFETIME_S", 0.0)
    newer = Path(files.check(second, "ann").removeprefix("gradio_api/file="))
    assert (shown.exists(), files.uploaders(name)) == (False, frozenset())
    assert newer.exists()


@pytest.mark.parametrize("url", ["", "  ", None])
async def test_fetching_without_an_address_is_refused(chat, url: Any) -> None:
    with pytest.raises(BadRequest, match="Enter the address"):
        await chat.service.attachments.fetch(url)


async def test_image_files_are_deleted_with_the_service(chat, tmp_path) -> None:
    views = await chat.answered(chat.ask("What is it?", image_file(tmp_path)), "A square.")
    assert preview_path(views[-1]).is_relative_to(chat.service.previews)
    chat.service.close()
    assert not preview_path(views[-1]).exists()
    assert not chat.service.previews.exists()
