"""The JSON that the chat-completions API answers with, as pydantic models: the response, its chunks, models, health and version.

The field names are the OpenAI API's, and vLLM's for what vLLM adds (stop_reason, prompt_logprobs, max_model_len). schema.py has
the request. Knows no backend.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class TopLogprob(BaseModel):
    """One of the likeliest tokens at a position.

    Attributes:
        token: The text of the token.
        logprob: The natural logarithm of the model's probability before temperature, top_p and top_k.
        bytes: The UTF-8 bytes of the text; null for a token that stands for no text.
    """

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the answer.

    Attributes:
        token: The text of the token.
        logprob: The natural logarithm of the model's probability before temperature, top_p and top_k.
        bytes: The UTF-8 bytes of the text; null for a token that stands for no text.
        top_logprobs: The likeliest tokens at this position.
    """

    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    """Log probabilities of an answer.

    Attributes:
        content: One entry for each token, without the token that ends the turn.
    """

    content: list[TokenLogprob]


class AnswerMessage(BaseModel):
    """The answer.

    Attributes:
        content: The text, without the stop string that ended it.
        tool_calls: Always empty.
    """

    role: Literal["assistant"] = "assistant"
    content: str
    tool_calls: list[Any] = []


FinishedBy = Literal["stop", "length"]


class Choice(BaseModel):
    """One of the n answers.

    Attributes:
        index: The number of the answer, from 0.
        finish_reason: length means that max_tokens, the context or the time limit ended the answer.
        stop_reason: The stop string that ended the answer, or time_limit or context_full where that was the cause.
    """

    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: FinishedBy
    stop_reason: str | None


class Usage(BaseModel):
    """Counts of tokens.

    Attributes:
        prompt_tokens: Tokens of the prompt, with the image token.
        completion_tokens: Tokens of all answers, each with the token that ended its turn.
        total_tokens: The sum of both.
    """

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int


class SeenImage(BaseModel):
    """The image that the model saw.

    Attributes:
        message: The index of its message in `messages`.
        width, height: Pixels.
        rows, columns: How the image was cut into tiles; null where a server behind this one does not say it.
        not_seen: The number of images in earlier messages. The model takes one image a prompt, the newest.
    """

    message: int
    width: int
    height: int
    rows: int | None = None
    columns: int | None = None
    not_seen: int


class ChatCompletion(BaseModel):
    """The whole answer. seed and image are additions of this server.

    Attributes:
        id: Starts with chatcmpl-.
        created: Seconds since 1970.
        model: The name that the request used.
        prompt_logprobs: Always null.
        seed: The seed of the first answer; null where the backend takes no seed.
        image: What the model saw; null without an image.
    """

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
    """What is new in an answer.

    Attributes:
        role: In the first chunk.
        content: The next piece of text.
    """

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The change of one of the n answers. The fields are those of a whole answer."""

    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: FinishedBy | None
    stop_reason: str | None = None


class ChatChunk(BaseModel):
    """One `data:` line of a stream. Fields without a value are not sent. seed and image come with the first chunk."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    seed: int | None = None
    image: SeenImage | None = None


class Capabilities(BaseModel):
    """What the model can do here.

    Attributes:
        images: Whether a message may have an image.
        images_per_prompt: How many images the model sees at the same time.
        seed: Whether requests may have a seed.
        logprobs: Whether requests may ask for log probabilities.
        streaming: Always true.
        tools: Always false.
    """

    images: bool
    images_per_prompt: int
    seed: bool
    logprobs: bool
    streaming: bool = True
    tools: bool = False


class Model(BaseModel):
    """A name that the model is served under.

    Attributes:
        created: Seconds since 1970.
        root: The name of the model itself.
        max_model_len: Tokens, prompt and answer together; null where a remote server does not tell it.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str
    parent: None = None
    max_model_len: int | None
    capabilities: Capabilities


class Models(BaseModel):
    """All names that the model is served under."""

    object: Literal["list"] = "list"
    data: list[Model]


class Version(BaseModel):
    """The version of the demo."""

    version: str


class HealthOfReplica(BaseModel):
    """One of several copies of the model. The fields are those of Health."""

    name: str
    status: Literal["loading", "ready", "down"]
    running: int
    waiting: int
    slots: int


class Health(BaseModel):
    """Whether a question could be answered and stored now.

    Attributes:
        status: The state of the model.
        running: Requests that have a slot.
        waiting: Requests in the queue.
        slots: How many requests can run at the same time.
        replicas: The copies of the model, where there are several.
        reason: What is loading, why the model is down, or that the database of conversations does not answer.
    """

    status: Literal["loading", "ready", "down"]
    running: int
    waiting: int
    slots: int
    replicas: list[HealthOfReplica] | None = None
    reason: str | None = None
