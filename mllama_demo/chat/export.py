"""Conversations as JSON files with all versions and images: writes them, and reads them from untrusted sources.

The pydantic models below define the format. A key that they lack is not written, and refused when read. Knows nothing of Gradio.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.message_summary import EndReason
from mllama_demo.chat.message_tree import MessageTree, Node
from mllama_demo.errors import BadRequest
from mllama_demo.images.loading import DEFAULT_LIMITS, ImageLimits, LoadedImage, load_image
from mllama_demo.sampling import BOUNDS

FORMAT = "mllama-demo conversation"
MAX_FILE_BYTES = 64 * 2**20
MAX_FILE_COMMAS = 2_000_000  # a value may take two bytes in a file and 30 in memory
MAX_MESSAGES = 2000
MAX_IMAGES = 50
MAX_TEXT = 100_000

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Count = Annotated[int, Field(ge=0, le=10_000_000)]
Figure = Annotated[float, Field(ge=0, le=10_000_000, allow_inf_nan=False)]


def _bounded(name: str) -> Any:
    return Field(ge=BOUNDS[name].minimum, le=BOUNDS[name].maximum)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Image(_Part):
    """The image of a question.

    Attributes:
        digest: The SHA-256 digest of the file, its key in `images`.
        width, height: Pixels.
    """

    digest: Digest
    name: Name
    width: int = Field(ge=1, le=1_000_000)
    height: int = Field(ge=1, le=1_000_000)


class _SeenImage(_Image):
    """The image that the model saw.

    Attributes:
        rows, columns: How the image was cut into tiles. Missing when a server does not report its tiles.
    """

    rows: int | None = Field(None, ge=1, le=64)
    columns: int | None = Field(None, ge=1, le=64)


class _Sampling(_Part):
    """The sampling values of an answer.

    Attributes:
        ignore_eos: Missing in older files.
    """

    temperature: float = _bounded("temperature")
    top_p: float = _bounded("top_p")
    top_k: int = _bounded("top_k")
    max_tokens: int = _bounded("max_tokens")
    seed: int | None = _bounded("seed")
    stop: list[Annotated[str, Field(max_length=64)]] = Field(max_length=4)
    ignore_eos: bool = False


class Metadata(_Part):
    """The metadata of a message: of an answer, how it was generated; of a question, which images were set aside.

    Attributes:
        dropped: How many of the oldest messages did not fit into the context.
        top_k_limit: The largest top_k of the backend, where it was smaller than the one asked for.
        context_length: Tokens, prompt and answer together.
        reason: How the answer ended.
        waited_s: Seconds in the queue.
        ttft_s: Seconds from the question to the first token.
        set_aside: The names of the images of a question that the model did not see.
        estimated: Whether the counts of tokens are estimates.
        imported: Whether the answer comes from a file.
    """

    sampling: _Sampling | None = None
    image: _SeenImage | None = None
    dropped: Count | None = None
    top_k_limit: Count | None = None
    context_length: Count | None = None
    reason: EndReason | None = None
    error: str | None = Field(None, max_length=1000)
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    waited_s: Figure | None = None
    ttft_s: Figure | None = None
    tokens_per_second: Figure | None = None
    set_aside: list[Name] | None = Field(None, max_length=20)
    estimated: bool | None = None
    imported: bool | None = None


class _Message(_Part):
    """A question or an answer.

    Attributes:
        number: Larger than the number of every message before it.
        parent: The number of the message that it follows; null for the first.
        shown: Whether the page shows this one of the versions with the same parent.
    """

    number: Count
    parent: Count | None
    shown: bool
    role: Literal["user", "assistant"]
    text: str = Field(max_length=MAX_TEXT)
    image: _Image | None = None
    facts: Metadata | None = None


class _File(_Part):
    """An image file.

    Attributes:
        data: The bytes of the file in Base64.
    """

    media_type: str = Field(max_length=40)
    data: str


class _Conversation(_Part):
    """A conversation with all its versions.

    Attributes:
        exported: When the file was written.
        messages: Each message comes after its parent. Questions and answers take turns.
        images: The image files, by their SHA-256 digest.
    """

    format: Literal["mllama-demo conversation"]
    version: Literal[1]
    title: str = Field(min_length=1, max_length=120)
    exported: str = Field(max_length=40)
    messages: list[_Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    images: dict[Digest, _File] = Field(max_length=MAX_IMAGES)


# --- out -----------------------------------------------------------------------------------------------------------------


def to_json(tree: MessageTree, load: Callable[[ImageRef], LoadedImage]) -> str:
    """The conversation with all its versions, and each image file once, unchanged.

    Args:
        load: loads an image by its reference.
    """
    messages, images = [], {}
    for node in tree.nodes:
        message = node.message
        known = {name: message.metadata[name] for name in Metadata.model_fields if message.metadata.get(name) is not None}
        entry = {"number": node.number, "parent": node.parent, "shown": node.chosen, "role": message.role, "text": message.text}
        if message.image is not None:
            ref = message.image
            entry["image"] = {"digest": ref.digest, "name": ref.name, "width": ref.width, "height": ref.height}
            if ref.digest not in images:
                loaded = load(ref)
                data = base64.b64encode(loaded.data).decode("ascii")
                images[ref.digest] = {"media_type": f"image/{loaded.format.lower()}", "data": data}
        messages.append({**entry, "facts": known} if known else entry)
    exported = datetime.now(timezone.utc).isoformat(timespec="seconds")
    whole = {"format": FORMAT, "version": 1, "title": tree.title or "Conversation", "exported": exported}
    return json.dumps({**whole, "messages": messages, "images": images}, ensure_ascii=False, indent=1)


# --- in ------------------------------------------------------------------------------------------------------------------


def from_json(data: bytes, put: Callable[[LoadedImage], ImageRef], limits: ImageLimits = DEFAULT_LIMITS) -> MessageTree:
    """The conversation in a file, with a new id and its answers marked as imported.

    Args:
        put: stores an image that passed all checks.
    Raises:
        BadRequest: naming the first problem and its place in the file.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _refusal(f"it has {len(data):,} bytes; at most {MAX_FILE_BYTES:,} are allowed")
    if data.count(b",") > MAX_FILE_COMMAS:
        raise _refusal(f"it has more than {MAX_FILE_COMMAS:,} values and commas")
    try:
        read = _Conversation.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:70] for part in first["loc"])
        raise _refusal(f"{where}: {first['msg']}" if where else first["msg"]) from None
    _check_order(read.messages)
    for index, message in enumerate(read.messages):
        if message.image is not None and message.image.digest not in read.images:
            raise _refusal(f"messages.{index}.image is not among the images of the file")
    # One after another, because all of them decoded may take gigabytes. The store purges images that no conversation shows.
    refs = {digest: put(_image(digest, file.data, limits)) for digest, file in read.images.items()}
    nodes = []
    for message in read.messages:
        image = None
        if message.image is not None:
            found = refs[message.image.digest]
            image = ImageRef(found.digest, message.image.name, found.width, found.height)
        facts = message.facts.model_dump(exclude_none=True) if message.facts else {}
        if message.facts and message.facts.sampling:
            facts["sampling"] = message.facts.sampling.model_dump()  # with "seed": None, which exclude_none removes
        if message.role == "assistant":
            facts["imported"] = True
        nodes.append(Node(message.number, message.parent, Message(message.role, message.text, image, facts), message.shown))
    return MessageTree(tuple(nodes), title=" ".join(read.title.split()) or "Imported conversation")


def _image(digest: str, base64_text: str, limits: ImageLimits) -> LoadedImage:
    try:
        content = base64.b64decode(base64_text, validate=True)
    except (binascii.Error, ValueError):
        raise _refusal(f"images.{digest[:8]}….data is not base64") from None
    image = load_image(content, f"image {digest[:8]}…", limits)
    if image.digest != digest:
        raise _refusal(f"images.{digest[:8]}… is another picture than its digest says")
    return image


def _check_order(messages: list[_Message]) -> None:
    """Raises BadRequest unless numbers ascend, questions and answers alternate, and one path through the tree is shown."""
    before: dict[int, _Message] = {}
    shown: set[int | None] = set()
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if before and message.number <= max(before):
            raise _refusal(f"{where}.number is {message.number}; numbers must go upwards")
        if message.parent is not None and message.parent not in before:
            raise _refusal(f"{where}.parent is {message.parent}, which is no message before it")
        expected = "user" if message.parent is None or before[message.parent].role == "assistant" else "assistant"
        if message.role != expected:
            raise _refusal(f"{where}.role is {message.role}, but here comes {expected}: questions and answers take turns")
        if message.image is not None and message.role != "user":
            raise _refusal(f"{where}.image belongs to an answer; only questions have images")
        if message.role == "user" and not message.text.strip() and message.image is None:
            raise _refusal(f"{where} is a question without words or image")
        if message.shown and message.parent in shown:
            raise _refusal(f"{where}.shown is true for a second answer or question in the same place")
        if message.shown:
            shown.add(message.parent)
        before[message.number] = message


def _refusal(problem: str) -> BadRequest:
    return BadRequest(f"This file cannot be imported: {problem}.")
