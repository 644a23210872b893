# pyright: reportArgumentType=false
"""The page behind a share link: which of them wait for the threads that decode images."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mllama_demo.config.branding import load_brand
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ServerBusy
from mllama_demo.images import threads
from mllama_demo.images.loading import load_image
from mllama_demo.runtime.threads import WorkThreads
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from mllama_demo.storage.shares import Shares
from mllama_demo.web.share.routes import SharePages
from tests.support.image_files import corners, encode
from tests.support.manual_backend import conversation_of
from tests.support.stored_conversations import sqlite_url


async def test_only_a_page_whose_images_must_be_decoded_waits_for_the_image_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_DECODING", WorkThreads("images", 1, 0, lambda: ServerBusy("busy", "image_threads")))
    database = Database(sqlite_url(tmp_path / "conversations.sqlite3"))
    store = ConversationStore(database)
    shares, settings = Shares(store), Settings()
    pages = SharePages(SimpleNamespace(shares=shares, conversations=store), settings, load_brand(settings))

    def shared(question: str, with_image: bool) -> str:
        conversation = conversation_of(question, "A dog.")
        if with_image:
            image = store.put_image(load_image(encode(corners()), "corners.png"))
            first, *others = conversation.messages
            conversation = replace(conversation, messages=(replace(first, image=image), *others))
        return shares.create("me", store.save("me", conversation).conversation().id, "1 day")

    without, cached, new = shared("No image", False), shared("Seen before", True), shared("Not seen", True)
    assert "data:image/" in await pages.html(cached)
    free = threading.Event()
    busy = asyncio.ensure_future(threads.in_image_thread(free.wait))
    await asyncio.sleep(0)
    try:
        assert "No image" in await pages.html(without)
        assert "Seen before" in await pages.html(cached)
        with pytest.raises(ServerBusy):
            await pages.html(new)
    finally:
        free.set()
        await busy
    assert "Not seen" in await pages.html(new)
    database.close()
