"""Images and conversations to store."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.images.loading import LoadedImage


def image(color: str, name: str = "a.png") -> LoadedImage:
    pixels = Image.new("RGB", (6, 4), color)
    file = io.BytesIO()
    pixels.save(file, "PNG")
    data = file.getvalue()
    return LoadedImage(pixels, data, "PNG", hashlib.sha256(data).hexdigest(), name)


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path.as_posix()}"


def conversation_of(*texts: str, title: str = "") -> Conversation:
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], text) for i, text in enumerate(texts)), title=title)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
