"""The nouns of generation: a request goes in, a stream of events comes out.

The UI and the API know this module and nothing below it.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mllama_demo.chat.conversation import Message
from mllama_demo.engine.token_sampler import TokenTrace
from mllama_demo.images.loading import LoadedImage
from mllama_demo.images.tiles import TileLayout, tile_layout
from mllama_demo.sampling import SamplingParams

FinishReason = Literal["end_of_turn", "stop_string", "max_tokens", "context_full", "time_limit", "cancelled", "error"]
State = Literal["loading", "ready", "down"]
SHUTTING_DOWN = "The demo is shutting down."  # why a backend is down that was closed


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to generate.

    Attributes:
        prompt_ids: The whole prompt, with one image token at the place of `image`, or no image token. Empty for a remote server,
            which has the tokenizer.
        conversation_id: Requests with the same id share one fair turn in the queue. Empty means a conversation of its own.
        time_limit_s: Seconds from submission to the last token; None for no limit.
        trace: Records a TokenTrace, or else TokenLogprobs, with every token, where the backend can.
        messages: The turns that the prompt was made of, see prompt.chat_turns. A backend that sends text sends these turns.
        shared_prompt: Other requests have the same prompt and image. A backend that can "fork" prefills the prompt once for all.
        answered: How many of the last prompt_ids are the beginning of the answer. Generation continues as if the backend had just
            generated these tokens: with the text and the random number that come next.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    image: LoadedImage | None = None
    conversation_id: str = ""
    time_limit_s: float | None = None
    trace: bool = False
    messages: tuple[Message, ...] = ()
    shared_prompt: bool = False
    answered: int = 0
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def queue_key(self) -> str:
        """Names the conversation whose fair turn the request takes."""
        return self.conversation_id or self.id


@dataclass(frozen=True)
class QueueEvent:
    """The request waits. position: 1 is next. estimated_wait_s: seconds; None while unknown."""

    position: int
    estimated_wait_s: float | None


@dataclass(frozen=True)
class PrefillEvent:
    """The request has a slot and its prompt is being read. prompt_tokens: an estimate where the tokenizer is not at hand.
    waited_s: time spent in the queue."""

    prompt_tokens: int
    waited_s: float


@dataclass(frozen=True)
class TokenLogprobs:
    """What a server tells of one step, as natural logarithms of probabilities. text, logprob: of the token itself.
    likeliest: the likeliest tokens and theirs, descending. Whether temperature and filters came before is the server's
    choice, so they cannot be filtered again as a TokenTrace can."""

    text: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class TokenEvent:
    """One generated token. text: the characters that became certain with it, often one token late, possibly none.

    A server may send several tokens at once, and only as text: token_id is then -1, and logprobs has one for each token.
    """

    index: int
    token_id: int
    text: str
    trace: TokenTrace | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Timings:
    """Seconds of one request. ttft: submission to first token, None when there was none. decode: first to last token."""

    waited_s: float
    ttft_s: float | None
    decode_s: float
    total_s: float

    def tokens_per_second(self, completion_tokens: int) -> float | None:
        """Decode speed after the first token; None with fewer than two tokens."""
        if completion_tokens < 2 or self.decode_s <= 0:
            return None
        return (completion_tokens - 1) / self.decode_s


@dataclass(frozen=True)
class FinishEvent:
    """The last event of every request, exactly one.

    text: characters held back until now (empty after a stop string, which is never emitted). error: for reason "error", a
    sentence with the cause. stop_string: for reason "stop_string", which one. estimated: the numbers of tokens are estimates,
    since a server did not tell them.
    """

    reason: FinishReason
    text: str
    prompt_tokens: int
    completion_tokens: int
    timings: Timings
    error: str | None = None
    stop_string: str | None = None
    estimated: bool = False


Event = QueueEvent | PrefillEvent | TokenEvent | FinishEvent


@dataclass(frozen=True)
class BackendInfo:
    """What a backend is and can do. Known before the model is loaded, though a server may tell more once it answers.

    context_length: tokens, prompt and answer together. tile_size: pixels of one square image tile, 0 where nobody can tell.
    capabilities: of "images", "seed", "probabilities" (a TokenTrace with every token), "logprobs" (TokenLogprobs) and "fork"
    (see GenerationRequest.shared_prompt); the UI offers what is in it and greys out the rest. ignored: sampling values without
    effect, and for each a sentence why. max_top_k: the most candidates it can choose among, see SamplingParams.top_k_within.
    max_prompt: tokens, the longest prompt where that is less than the context. full_canvas: every image takes max_tiles tiles,
    see images.tiles.tile_layout.
    """

    name: str
    model: str
    device: str
    slots: int
    context_length: int
    tile_size: int
    max_tiles: int
    capabilities: frozenset[str] = frozenset({"images", "seed"})
    max_top_k: int | None = None
    max_prompt: int | None = None
    full_canvas: bool = False
    ignored: Mapping[str, str] = field(default_factory=dict, hash=False)

    def tile_layout(self, width: int, height: int) -> TileLayout | None:
        """How the model sees an image of width × height pixels; None where nobody can tell."""
        if not self.tile_size:
            return None
        return tile_layout(width, height, self.tile_size, self.max_tiles, full_canvas=self.full_canvas)


@dataclass(frozen=True)
class BackendStatus:
    """The backend at one moment. detail: what is loading, or why it is down. estimated_wait_s: for a request sent now;
    0 when a slot is free, None while nothing is known."""

    state: State
    detail: str
    running: int
    waiting: int
    slots: int
    max_waiting: int
    estimated_wait_s: float | None


class Backend(Protocol):
    """Anything that turns requests into tokens."""

    @property
    def info(self) -> BackendInfo: ...

    def status(self) -> BackendStatus: ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Queues the request and streams its events, a FinishEvent last. Closing the stream cancels the request.

        Raises BackendBusy when the queue is full, BackendUnavailable while loading or down, PromptTooLong and BadRequest
        for requests that can never run; each before the first event.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Ends a waiting or running request; its stream finishes with reason "cancelled". Unknown ids are ignored."""
        ...

    def close(self) -> None:
        """Ends all requests and frees the device. Safe to call twice."""
        ...


class StartedBackend(Backend, Protocol):
    """A backend with a beginning: it is made at once, and comes up behind the page that tells how far it is."""

    @property
    def loaded(self) -> bool:
        """Whether it came up at all, even if it is down now."""
        ...

    def start(self) -> None:
        """Begins to load or to connect; returns at once."""
        ...
