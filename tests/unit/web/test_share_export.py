"""Exported conversations: complete, without scripts, and without the metadata of photos."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.config.branding import Brand
from mllama_demo.errors import BadRequest
from mllama_demo.images.loading import load_image
from mllama_demo.web.share.export import export, file_name, to_html, to_markdown

LOCATION = "59.9139 N, 10.7522 E"
SCRIPT = "<script>alert(1)</script>"


def photo() -> bytes:
    metadata = Image.Exif()
    metadata[0x010E] = LOCATION
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(file, "JPEG", exif=metadata)
    return file.getvalue()


RED = load_image(photo(), "red.jpg")
METADATA = {
    "image": {"digest": RED.digest, "name": "red.jpg", "width": 60, "height": 40, "rows": 1, "columns": 1},
    "sampling": {"temperature": 0.6, "top_p": 0.9, "top_k": 0, "max_tokens": 256, "seed": 7, "stop": []},
    "reason": "end_of_turn",
}
CONVERSATION = Conversation(
    (
        Message("user", f"What is *this*?\n{SCRIPT}", ImageRef(RED.digest, 'red".jpg', 60, 40)),
        Message("assistant", f"A **red** thing. {SCRIPT} ![x](https://example.com/spy.png)", metadata=METADATA),
    ),
    title=f"Red & {SCRIPT}",
)


class Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_html_page_is_complete_and_has_no_script() -> None:
    html = to_html(CONVERSATION, lambda ref: RED)
    elements = Elements(html).found
    assert "script" not in [tag for tag, _ in elements]
    assert "What is *this*?\n&lt;script&gt;" in html, "a question is shown as typed"
    assert "<strong>red</strong>" in html, "an answer is Markdown"
    assert "saw red.jpg, 60 × 40 px, 1 tile · finished · temperature 0.6" in html
    [policy] = [attributes["content"] for tag, attributes in elements if "http-equiv" in attributes]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'", "so the spy's picture is not fetched"
    assert [attributes["href"] for tag, attributes in elements if tag == "link"] == [Brand("Demo").icon], "an icon in the page"
    assert not [tag for tag, _ in elements if tag in ("iframe", "object")]


def test_an_image_in_the_html_page_has_no_metadata() -> None:
    assert LOCATION.encode() in RED.data
    import base64

    [encoded] = re.findall(r'src="data:image/webp;base64,([^"]+)"', to_html(CONVERSATION, lambda ref: RED))
    data = base64.b64decode(encoded)
    assert LOCATION.encode() not in data
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (60, 40)


def test_markdown_has_questions_answers_images_and_figures() -> None:
    text = to_markdown(CONVERSATION)
    headings = re.findall(r"^#+ .*", text, re.MULTILINE)
    assert headings == [f"# Red & {SCRIPT}", "## Question", "## Answer"]
    assert '*Image: red".jpg, 60 × 40 px*' in text
    assert "A **red** thing." in text
    assert "finished" in text


@pytest.mark.parametrize("kind", ["html", "md", "json"])
def test_a_file_is_named_after_the_title(kind: str) -> None:
    tree = MessageTree(title="What's up, Zoë?").with_messages(CONVERSATION.messages)
    name, content = export(kind, tree, lambda ref: RED)
    assert name == f"What-s-up-Zoë.{kind}"
    assert "red" in content
    if kind == "json":
        assert json.loads(content)["title"] == "What's up, Zoë?"


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(BadRequest, match="html, md, json, not as 'exe'"):
        export("exe", MessageTree(), lambda ref: RED)


@pytest.mark.parametrize(
    ("title", "name"),
    [("", "conversation.md"), ("../../etc/passwd", "etc-passwd.md"), ("…", "conversation.md"), ("x" * 99, "x" * 60 + ".md")],
)
def test_a_file_name_has_only_safe_characters(title: str, name: str) -> None:
    assert file_name(title, "md") == name
