"""Conversations survive an export and import unchanged, and an untrusted file is checked completely."""

from __future__ import annotations

import base64
import copy
import io
import json
from typing import Any, get_args

import pytest
from PIL import Image

from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.export import MAX_MESSAGES, MAX_TEXT, from_json, to_json
from mllama_demo.chat.message_summary import END_REASONS, EndReason
from mllama_demo.chat.message_tree import MessageTree
from mllama_demo.errors import BadRequest, ImageError
from mllama_demo.images.loading import LoadedImage, load_image
from tests.support.manual_backend import conversation_of


def png(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(file, "PNG")
    return file.getvalue()


RED = load_image(png("red"), "red.png")
REF = ImageRef(RED.digest, "red.png", 6, 4)
FACTS: dict[str, Any] = {
    "sampling": {
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 0,
        "max_tokens": 256,
        "seed": 2**32 - 1,
        "stop": ["x"],
        "ignore_eos": False,
    },
    "dropped": 0,
    "context_length": 2048,
    "reason": "end_of_turn",
    "prompt_tokens": 17,
    "completion_tokens": 5,
    "waited_s": 0.0,
    "ttft_s": 0.42,
    "tokens_per_second": 31.6,
    "image": {"digest": RED.digest, "name": "red.png", "width": 6, "height": 4, "rows": 1, "columns": 1},
}
QUESTION = Message("user", "What is it?", REF, {"set_aside": ["blue.png"]})
TREE = (
    MessageTree(title="Red things")
    .with_messages((QUESTION, Message("assistant", "A square.", metadata=FACTS)))
    .with_messages(
        (QUESTION, Message("assistant", "Red – 红色.", metadata={**FACTS, "imported": True}), Message("user", "And now?"))
    )
)


def read(data: Any) -> tuple[MessageTree, list[LoadedImage]]:
    put: list[LoadedImage] = []

    def store(image: LoadedImage) -> ImageRef:
        put.append(image)
        return ImageRef(image.digest, image.name, image.width, image.height)

    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return from_json(raw, store), put


@pytest.fixture
def exported() -> dict[str, Any]:
    return json.loads(to_json(TREE, lambda ref: RED))


def test_an_export_is_imported_with_all_versions_and_a_new_id(exported) -> None:
    tree, put = read(exported)
    assert tree.id != TREE.id
    assert tree.title == "Red things"
    assert [(n.number, n.parent, n.chosen, n.message.text, n.message.image) for n in tree.nodes] == [
        (n.number, n.parent, n.chosen, n.message.text, n.message.image) for n in TREE.nodes
    ]
    assert tree.nodes[0].message == QUESTION
    assert [image.data for image in put] == [RED.data]


def test_imported_answers_are_marked(exported) -> None:
    tree, _ = read(exported)
    assert tree.nodes[1].message.metadata == {**FACTS, "imported": True}


def test_tiles_that_a_server_does_not_report_are_optional() -> None:
    seen = {"digest": RED.digest, "name": "red.png", "width": 6, "height": 4}
    facts = {"sampling": {**FACTS["sampling"], "seed": None}, "image": seen, "estimated": True, "dropped": 0}
    tree = MessageTree(title="x").with_messages((QUESTION, Message("assistant", "Ho", metadata=facts)))
    exported = json.loads(to_json(tree, lambda ref: RED))
    assert read(exported)[0].nodes[1].message.metadata == {**facts, "imported": True}


def test_metadata_outside_the_format_is_not_written() -> None:
    tree = MessageTree(title="x").with_messages(
        (Message("user", "Hi"), Message("assistant", "Ho", metadata={"secret": 1, "dropped": 0}))
    )
    assert json.loads(to_json(tree, lambda ref: RED))["messages"][1]["facts"] == {"dropped": 0}


def test_every_end_reason_has_a_text_and_can_be_imported() -> None:
    assert set(get_args(EndReason)) == set(END_REASONS)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("format", "chat", "format: Input should be 'mllama-demo conversation'"),
        ("version", 2, "version: Input should be 1"),
        ("title", "", "title: String should have at least 1"),
        ("title", "x" * 121, "title: String should have at most 120"),
        ("messages", [], "messages: List should have at least 1"),
        ("surprise", 1, "surprise: Extra inputs are not permitted"),
        ("messages.0.surprise", 1, "messages.0.surprise: Extra inputs"),
        ("messages.0.role", "system", "messages.0.role: Input should be 'user' or 'assistant'"),
        ("messages.0.text", "x" * (MAX_TEXT + 1), f"messages.0.text: String should have at most {MAX_TEXT}"),
        ("messages.0.text", 7, "messages.0.text: Input should be a valid string"),
        ("messages.0.number", -1, "messages.0.number: Input should be greater than or equal to 0"),
        ("messages.1.number", 0, "messages.1.number is 0; numbers must go upwards"),
        ("messages.1.parent", 3, "messages.1.parent is 3, which is no message before it"),
        ("messages.0.role", "assistant", "messages.0.role is assistant, but here comes user"),
        ("messages.1.shown", True, "messages.2.shown is true for a second answer"),
        ("messages.1.facts.reason", "magic", "messages.1.facts.reason: Input should be 'end_of_turn'"),
        ("messages.1.facts.tokens_per_second", -1.0, "facts.tokens_per_second: Input should be greater than or equal to 0"),
        ("messages.1.facts.sampling.temperature", 9.0, "temperature: Input should be less than or equal to 2"),
        ("messages.1.facts.error", ["x"], "facts.error: Input should be a valid string"),
        ("messages.0.image.digest", "../../etc/passwd", "messages.0.image.digest: String should match pattern"),
        ("messages.0.image.digest", "0" * 64, "messages.0.image is not among the images"),
        ("images", {}, "messages.0.image is not among the images"),
        (f"images.{RED.digest}.data", "no base64!", "data is not base64"),
        (f"images.{RED.digest}.data", base64.b64encode(png("blue")).decode(), "another picture than its digest says"),
    ],
)
def test_a_problem_is_named_with_its_place_in_the_file(exported, path: str, value: Any, said: str) -> None:
    changed = copy.deepcopy(exported)
    *way, last = path.split(".")
    part: Any = changed
    for name in way:
        part = part[int(name)] if isinstance(part, list) else part[name]
    part[last] = value
    with pytest.raises(BadRequest) as error:
        read(changed)
    assert str(error.value).startswith("This file cannot be imported: ")
    assert said in str(error.value)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"[1]", b"\xff\xfe", b'{"title": "\\ud800"}', b"[" * 100_000, b'{"title": NaN}', b"null"]
)
def test_a_file_of_another_format_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(BadRequest, match="cannot be imported"):
        read(data)


def test_an_invalid_image_is_refused(exported) -> None:
    exported["images"][RED.digest]["data"] = base64.b64encode(b"<svg onload=alert(1)>").decode()
    with pytest.raises(ImageError, match="not an image"):
        read(exported)


def test_an_answer_with_an_image_is_refused(exported) -> None:
    exported["messages"][1]["image"] = exported["messages"][0]["image"]
    with pytest.raises(BadRequest, match="only questions have images"):
        read(exported)


def test_the_size_of_an_image_is_read_from_the_image(exported) -> None:
    exported["messages"][0]["image"]["width"] = 9999
    assert read(exported)[0].nodes[0].message.image == REF


def test_the_number_of_messages_is_limited() -> None:
    tree = MessageTree(title="long").with_messages(conversation_of(*(str(n) for n in range(MAX_MESSAGES))).messages)
    data = json.loads(to_json(tree, lambda ref: RED))
    assert len(read(data)[0].nodes) == MAX_MESSAGES
    data["messages"].append({**data["messages"][0], "number": MAX_MESSAGES, "parent": MAX_MESSAGES - 1})
    with pytest.raises(BadRequest, match=f"at most {MAX_MESSAGES} items"):
        read(data)
