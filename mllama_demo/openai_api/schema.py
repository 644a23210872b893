"""What goes over the wire of the chat-completions API: the request with its checks, the whole answer and its chunks.

Field names are the OpenAI API's; what vLLM adds (top_k, ignore_eos, stop_reason, prompt_logprobs, max_model_len) has vLLM's
names. Knows no backend. Numbers are checked where SamplingParams checks them.
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

# Fields that this server does not act on although ignoring them would change the answer, with the values that change nothing
# (null never does). Every other unknown field is ignored.
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
    """Taken as it stands: "5" is no number and 1 is no yes. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


def _refusal(param: str | None, problem: str, code: LiteralString = "invalid_value") -> PydanticCustomError:
    """param: the field to name, where pydantic would name the object around it."""
    return PydanticCustomError(code, "{problem}", {"problem": problem, "param": param})


def _unicode(text: str) -> str:
    """JSON can name half a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refusal(None, f"whole Unicode characters are allowed, at {error.start} there is half a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_unicode)]


# --- request -------------------------------------------------------------------------------------------------------------


class TextPart(_Wire):
    type: Literal["text"]
    text: Text


class ImageUrl(_Wire):
    """url: http, https or data:. detail is taken and ignored: the model has one resolution for each shape."""

    url: Text = Field(min_length=1)


def _bare_url(value: Any) -> Any:
    """Some clients send the address itself where the API has an object around it."""
    return {"url": value} if isinstance(value, str) else value


class ImagePart(_Wire):
    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_bare_url)]


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


def _kind(content: Any) -> str:
    return "parts" if isinstance(content, list) else "text"


Content = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[Part], Field(max_length=MAX_PARTS), Tag("parts")], Discriminator(_kind)
]


class ChatMessage(_Wire):
    """One turn. developer is the newer name of system. content: null only for an assistant that said nothing."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_tools(cls, value: Any) -> Any:
        if isinstance(value, dict) and (value.get("tool_calls") or value.get("function_call")):
            raise _refusal(None, "this server has no tools, so a message with tool calls is not understood", UNSUPPORTED)
        return value

    @model_validator(mode="after")
    def _fits_its_role(self) -> ChatMessage:
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
        """All text; parts are joined by line breaks."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if isinstance(part, TextPart))
        return self.content or ""

    @property
    def images(self) -> list[str]:
        """The address of each image, in order."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


def _strings(value: Any) -> Any:
    """One error for both types, in place of pydantic's one for each."""
    strings = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(string, str) for string in strings):
        raise _refusal(None, "a string or a list of strings is allowed")
    for string in strings:
        _unicode(string)
    return value


class StreamOptions(_Wire):
    include_usage: bool | None = None


class ChatRequest(_Wire):
    """POST /v1/chat/completions. What is left out has the deployment's value; max_tokens then is what the context leaves."""

    model_config = ConfigDict(strict=True, extra="allow", title="ChatCompletionRequest")

    model: Text | None = Field(None, description="One of /v1/models; left out: the first of them.")
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = Field(None, description="The newer name of max_tokens; wins over it.")
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(None, description="0 and -1 are off.")
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    stop: Annotated[str | list[str] | None, BeforeValidator(_strings)] = None
    ignore_eos: bool | None = Field(None, description="Go on past the model's own end, until something else ends the answer.")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    @model_validator(mode="after")
    def _no_more_than_is_supported(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise _refusal("top_logprobs", "allowed only together with logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise _refusal("stream_options", "allowed only together with stream: true")
        for name, value in (self.model_extra or {}).items():
            if value is not None and name in NEUTRAL and not any(_same(value, neutral) for neutral in NEUTRAL[name]):
                raise _refusal(name, unsupported(name), UNSUPPORTED)
        return self

    @property
    def longest(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and True is no 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def unsupported(name: str) -> str:
    """Why a field of NEUTRAL is refused."""
    values = NEUTRAL[name]
    allowed = f"only {' or '.join(map(json.dumps, values)) or 'null'} is"
    return f"not supported, and ignoring it would change the answer; {allowed} allowed"


# --- answer --------------------------------------------------------------------------------------------------------------


class TopLogprob(BaseModel):
    """logprob: natural logarithm of the model's probability before temperature, top_p and top_k. bytes: of the token's text,
    null for a token that stands for no text."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    content: list[TokenLogprob]


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    tool_calls: list[Any] = []


FinishedBy = Literal["stop", "length"]


class Choice(BaseModel):
    """stop_reason: the stop string that was hit; "time_limit" or "context_full" where that, and not max_tokens, was the end."""

    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: FinishedBy
    stop_reason: str | None


class Usage(BaseModel):
    """Tokens. completion_tokens: of all choices, each with the token that ended its turn."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int


class SeenImage(BaseModel):
    """What the model saw. message: index in `messages`. width, height: pixels. rows, columns: of tiles, null where a
    server behind this one does not tell. not_seen: how many images of earlier messages it did not see, since it takes one a
    prompt, the newest."""

    message: int
    width: int
    height: int
    rows: int | None = None
    columns: int | None = None
    not_seen: int


class ChatCompletion(BaseModel):
    """seed, image: additions of this server. seed: what the answer was drawn with, for asking again; null where a backend
    takes none."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    prompt_logprobs: None = None
    seed: int | None
    image: SeenImage | None


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: FinishedBy | None
    stop_reason: str | None = None


class ChatChunk(BaseModel):
    """One `data:` line of a stream. Sent without the fields that were not set. seed, image: with the first one."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    seed: int | None = None
    image: SeenImage | None = None


class Capabilities(BaseModel):
    images: bool
    images_per_prompt: int
    seed: bool
    logprobs: bool
    streaming: bool = True
    tools: bool = False


class Model(BaseModel):
    """max_model_len: tokens, prompt and answer together."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str
    parent: None = None
    max_model_len: int
    capabilities: Capabilities


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Version(BaseModel):
    version: str


class Health(BaseModel):
    """reason: what is loading, or why it is down."""

    status: Literal["loading", "ready", "down"]
    running: int
    waiting: int
    slots: int
    reason: str | None = None
