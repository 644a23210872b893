"""The JSON of a chat-completions request as pydantic models, with its checks.

The field names are the OpenAI API's, and vLLM's for what vLLM adds (top_k, ignore_eos). SamplingParams checks the sampling
values. response_schema.py has what the API answers with. Knows no backend.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import LiteralString

from mllama_demo.openai_api.unknown_fields import effect, ignored_fields, refused_field, unread_content
from mllama_demo.runtime.json_input import half_surrogate

MAX_CHOICES = 16
UNSUPPORTED = "unsupported"
MAX_TOP_LOGPROBS = 20
MAX_MESSAGES = 2000
MAX_PARTS = 100
_INT64 = 2**63
_MAX_NAME = 80  # characters of a field's name that an error repeats
_BASE64_LENGTH = 64
_BASE64 = re.compile(rf"[A-Za-z0-9+/]{{{_BASE64_LENGTH}}}|[A-Za-z0-9+/]+={{1,2}}\Z")
_CHECKED = ("tool_calls", "function_call")  # fields of a message with a check of their own

_TEXT_FORMAT, _JSON_MODE = {"type": "text"}, {"type": "json_object"}  # of response_format


class _Wire(BaseModel):
    """Strict: "5" is not a number and 1 is not true. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


def _refusal(param: str | None, problem: str, code: LiteralString = "invalid_value") -> PydanticCustomError:
    """param: the field that the error names, where pydantic would name the object around it."""
    return PydanticCustomError(code, "{problem}", {"problem": problem, "param": param})


def _with_scheme(url: str) -> str:
    """Refuses the bare base64 text of an image, which other servers take in the place of an address."""
    if _BASE64.match(url[:_BASE64_LENGTH]):
        raise _refusal(None, "the base64 text of an image needs its head, data:image/png;base64, (or jpeg, webp, gif)")
    return url


# --- request -------------------------------------------------------------------------------------------------------------


class _Content(_Wire):
    """An object whose unknown fields may carry content: such a field is refused."""

    @model_validator(mode="before")
    @classmethod
    def _is_read(cls, value: Any) -> Any:
        if isinstance(value, dict) and (found := unread_content(value, (*cls.model_fields, *_CHECKED))):
            raise _refusal(found[0][:_MAX_NAME], found[1], UNSUPPORTED)
        return value


class TextPart(_Content):
    """A part of a message with text."""

    type: Literal["text"]
    text: str


class ImageUrl(_Wire):
    """The address of an image. The field `detail` is ignored, because the model has one resolution for each shape.

    Attributes:
        url: An address that starts with http:, https: or data:.
    """

    url: Annotated[str, AfterValidator(_with_scheme)] = Field(min_length=1)


def _bare_url(value: Any) -> Any:
    """Accepts the URL itself in place of the object around it, because some clients send it."""
    return {"url": value} if isinstance(value, str) else value


class ImagePart(_Content):
    """A part of a message with an image. A plain address is accepted in place of the object.

    Attributes:
        image_url: The image. Only the newest image of the conversation is fetched.
    """

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_bare_url)]


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


def _kind(content: Any) -> str:
    return "parts" if isinstance(content, list) else "text"


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Part], Field(max_length=MAX_PARTS), Tag("parts")], Discriminator(_kind)
]


class ChatMessage(_Content):
    """One turn of the conversation.

    Attributes:
        role: Who speaks; developer is the newer name of system.
        content: Text, or parts with text and at most one image. Images are allowed in user messages only. null is allowed for
            an assistant only.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_tools(cls, value: Any) -> Any:
        if isinstance(value, dict) and (value.get("tool_calls") or value.get("function_call")):
            raise _refusal(None, "this server has no tools, so a message with tool calls is not understood", UNSUPPORTED)
        return value

    @model_validator(mode="after")
    def _content_fits_role(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise _refusal("content", f"a message of the role {self.role} needs a text or a list of parts")
        images = len(self.images)
        if images and self.role != "user":
            raise _refusal("content", f"images are allowed in user messages only, not in one of the role {self.role}")
        if images > 1:
            raise _refusal("content", f"at most 1 image is allowed in a message, this one has {images}")
        return self

    @property
    def text(self) -> str:
        """The text of all parts, joined by line breaks."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if isinstance(part, TextPart))
        return self.content or ""

    @property
    def images(self) -> list[str]:
        """The URL of each image, in order."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


def _strings(value: Any) -> Any:
    """Refuses other types with one error, where pydantic would report one error for each allowed type."""
    strings = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(string, str) for string in strings):
        raise _refusal(None, "a string or a list of strings is allowed")
    return value


class StreamOptions(_Wire):
    """Options of a streamed answer.

    Attributes:
        include_usage: Sends the counts of tokens in a last chunk.
    """

    include_usage: bool | None = None


class ChatRequest(_Wire):
    """The body of POST /v1/chat/completions.

    Attributes:
        model: One of /v1/models; without it, the first of them.
        messages: The conversation, the oldest message first. It is refused when it does not fit the context.
        stream: Answers with server-sent events.
        stream_options: Allowed with stream only.
        max_tokens: The most tokens of the answer; without it, what the context leaves, up to 4096. More than
            the context has means all of it.
        max_completion_tokens: The newer name of max_tokens; wins over it.
        temperature, top_p: Without a value, that of the deployment.
        top_k: 0 and -1 are off. Without a value, that of the deployment.
        seed: Any 64-bit number, taken modulo 2**32. Without a seed, one is drawn and returned.
        stop: Up to 4 strings of 1 to 64 characters. The answer ends before any of them.
        ignore_eos: Treats the model's own end as a token like any other, for measurements.
        n: The number of answers. Answer i draws with seed + i.
        logprobs: Returns log probabilities of the model, before temperature, top_p and top_k.
        top_logprobs: How many of the likeliest tokens are returned for each position; needs logprobs.
        tools, functions: Never called: the answer is text. They are refused where the option ignore_tools is off.
        tool_choice, function_call: none, or auto. A choice that asks for a call is refused.
        response_format: {"type": "text"}. {"type": "json_object"} is ignored where the option ignore_json_mode is on, and refused
            where it is off. A schema is refused.
    """

    model_config = ConfigDict(strict=True, extra="allow", title="ChatCompletionRequest")

    model: str | None = None
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    stop: Annotated[str | list[str] | None, BeforeValidator(_strings)] = None
    ignore_eos: bool | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    response_format: Any = None

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, value: Any) -> Any:
        """Comes before all other checks: their errors could not repeat a part of the body that has half a surrogate pair."""
        if isinstance(value, dict) and (found := half_surrogate(value)):
            raise _refusal(*found)
        return value

    @model_validator(mode="after")
    def _is_supported(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise _refusal("top_logprobs", "allowed only together with logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise _refusal("stream_options", "allowed only together with stream: true")
        for choice, what in (("tool_choice", "tools"), ("function_call", "functions")):
            if getattr(self, choice) not in (None, "none", "auto"):
                raise _refusal(what, f"this server calls no {what}, so that {choice} can only be none or auto", UNSUPPORTED)
        if self.response_format not in (None, _TEXT_FORMAT, _JSON_MODE):
            raise _refusal("response_format", effect([_TEXT_FORMAT]), UNSUPPORTED)
        if found := refused_field(self.model_extra or {}, type(self).model_fields):
            raise _refusal(found[0][:_MAX_NAME], found[1], UNSUPPORTED)
        return self

    @property
    def json_mode(self) -> bool:
        """Whether the answer is wanted as one JSON object, of whatever fields."""
        return self.response_format == _JSON_MODE

    @property
    def ignored(self) -> list[str]:
        """The names of the fields that were sent and have no effect on the answer."""
        beside = [self.uncalled] if self.uncalled else []
        return beside + ["response_format"] * self.json_mode + ignored_fields(self.model_extra or {})

    @property
    def uncalled(self) -> str | None:
        """The field with tools that might be called if this server had any; None where there are none."""
        if self.tools and self.tool_choice != "none":
            return "tools"
        return "functions" if self.functions and self.function_call != "none" else None

    @property
    def answer_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
