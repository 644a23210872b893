"""The JSON of a chat-completions request as pydantic models, with its checks.

The field names are the OpenAI API's, and vLLM's for what vLLM adds (top_k, ignore_eos). SamplingParams checks the sampling
values. response_schema.py has what the API answers with. Knows no backend.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import LiteralString

MAX_CHOICES = 16
UNSUPPORTED = "unsupported"
MAX_TOP_LOGPROBS = 20
MAX_MESSAGES = 2000
MAX_PARTS = 100
_INT64 = 2**63

# Fields that this server does not support, with the values that have no effect (null has none either). Other values are refused,
# because ignoring them would change the answer. Every other unknown field is ignored.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "best_of": (1,),
    "use_beam_search": (False,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
}


class _Wire(BaseModel):
    """Strict: "5" is not a number and 1 is not true. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


def _refusal(param: str | None, problem: str, code: LiteralString = "invalid_value") -> PydanticCustomError:
    """param: the field that the error names, where pydantic would name the object around it."""
    return PydanticCustomError(code, "{problem}", {"problem": problem, "param": param})


def _unicode(text: str) -> str:
    """Refuses half a surrogate pair, which JSON can contain although it is not a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refusal(None, f"whole Unicode characters are allowed, at {error.start} there is half a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_unicode)]


# --- request -------------------------------------------------------------------------------------------------------------


class TextPart(_Wire):
    """A part of a message with text."""

    type: Literal["text"]
    text: Text


class ImageUrl(_Wire):
    """The address of an image. The field `detail` is ignored, because the model has one resolution for each shape.

    Attributes:
        url: An address that starts with http:, https: or data:.
    """

    url: Text = Field(min_length=1)


def _bare_url(value: Any) -> Any:
    """Accepts the URL itself in place of the object around it, because some clients send it."""
    return {"url": value} if isinstance(value, str) else value


class ImagePart(_Wire):
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
    Annotated[Text, Tag("text")] | Annotated[list[Part], Field(max_length=MAX_PARTS), Tag("parts")], Discriminator(_kind)
]


class ChatMessage(_Wire):
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
    for string in strings:
        _unicode(string)
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
        max_tokens: The most tokens of the answer; without it, what the context leaves.
        max_completion_tokens: The newer name of max_tokens; wins over it.
        temperature, top_p: Without a value, that of the deployment.
        top_k: 0 and -1 are off. Without a value, that of the deployment.
        seed: Any 64-bit number, taken modulo 2**32. Without a seed, one is drawn and returned.
        stop: Up to 4 strings of 1 to 64 characters. The answer ends before any of them.
        ignore_eos: Treats the model's own end as a token like any other, for measurements.
        n: The number of answers. Answer i draws with seed + i.
        logprobs: Returns log probabilities of the model, before temperature, top_p and top_k.
        top_logprobs: How many of the likeliest tokens are returned for each position; needs logprobs.
    """

    model_config = ConfigDict(strict=True, extra="allow", title="ChatCompletionRequest")

    model: Text | None = None
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

    @model_validator(mode="after")
    def _is_supported(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise _refusal("top_logprobs", "allowed only together with logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise _refusal("stream_options", "allowed only together with stream: true")
        for name, value in (self.model_extra or {}).items():
            if value is not None and name in NEUTRAL and not any(_same(value, neutral) for neutral in NEUTRAL[name]):
                raise _refusal(name, unsupported(name), UNSUPPORTED)
        return self

    @property
    def answer_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def _same(value: Any, neutral: Any) -> bool:
    """Whether the values are equal; True is not equal to 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def unsupported(name: str) -> str:
    """The reason for refusing a field of NEUTRAL."""
    values = NEUTRAL[name]
    allowed = f"only {' or '.join(map(json.dumps, values)) or 'null'} is"
    return f"not supported, and ignoring it would change the answer; {allowed} allowed"
