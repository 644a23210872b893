"""The types of generation: a backend takes a GenerationRequest and yields a stream of events.

The UI and the API import this module and no other module of the engine. This module knows no model and no web framework.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mllama_demo.chat.conversation import Message
from mllama_demo.engine.token_sampler import TokenTrace
from mllama_demo.images.loading import LoadedImage
from mllama_demo.images.tiles import TileLayout, tile_layout
from mllama_demo.runtime.logs import REQUEST_ID
from mllama_demo.sampling import MIN_DECODE_S, SamplingParams

FinishReason = Literal["end_of_turn", "stop_string", "max_tokens", "context_full", "time_limit", "cancelled", "error"]
State = Literal["loading", "ready", "down"]
SHUTTING_DOWN = "The demo is shutting down."  # BackendStatus.detail of a closed backend
# What visitors read about a model that fails. The log has the cause.
NOT_LOADED = "The model could not be loaded."
MODEL_DOWN = "The model is down."
REQUEST_FAILED = "The model failed on this request."
MODEL_STOPPED = "The model stopped unexpectedly, so the answer ends here. The model is started again; please ask once more."


@dataclass(frozen=True)
class Client:
    """Who asks, so that nobody is kept waiting by another one's burst, and for the limits of a deployment.

    Attributes:
        address: The address of the client's machine. Empty where the program itself asks.
        visitor: The user, the visitor's cookie, or an identifier of the API key. Empty where only the address is known.
    """

    address: str = ""
    visitor: str = field(default="", repr=False)


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to generate.

    Attributes:
        prompt_ids: The token ids of the whole prompt. The prompt has one image token if there is an `image`, and none otherwise.
            Empty for a remote server, which has its own tokenizer.
        conversation_id: Requests of one client with the same id share one turn in the fair queue. Empty: the request has its own.
        time_limit_s: Seconds from submission to the last token; None for no limit.
        trace: The backend records a TokenTrace with every token, or TokenLogprobs, or nothing, as its capabilities allow.
        messages: The turns that the prompt was made from, see prompt.chat_turns. A backend that sends text sends these turns.
        answered: How many of the last prompt_ids already belong to the answer. Generation continues after them with the next
            text and the next random number, as if the backend had just generated them.
        id: Unique among the requests that have not ended.
        request_id: The id of the HTTP request that this one was made for, in log lines. Several requests may have the same.
        choices: How many requests with this conversation_id are the choices of one completion. The limits of a client take all of
            them or none.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    image: LoadedImage | None = None
    conversation_id: str = ""
    time_limit_s: float | None = None
    trace: bool = False
    messages: tuple[Message, ...] = ()
    answered: int = 0
    client: Client = Client()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    request_id: str = field(default_factory=REQUEST_ID.get)
    choices: int = 1

    @property
    def queue_path(self) -> tuple[str, str, str]:
        """Whose turn in the fair queue the request takes."""
        return self.client.address, self.client.visitor, self.conversation_id or self.id


@dataclass(frozen=True)
class QueueEvent:
    """The request waits.

    Attributes:
        position: 1 is next.
        estimated_wait_s: None while unknown.
    """

    position: int
    estimated_wait_s: float | None


@dataclass(frozen=True)
class PrefillEvent:
    """The request has a slot and its prefill begins.

    Attributes:
        prompt_tokens: An estimate if the backend has no tokenizer.
        waited_s: Seconds in the queue.
    """

    prompt_tokens: int
    waited_s: float


@dataclass(frozen=True)
class TokenLogprobs:
    """The log probabilities (natural logarithm) of one step, as a server reports them.

    A server may report them before or after temperature and filters, so they cannot be filtered again as a TokenTrace can.

    Attributes:
        text, logprob: The generated token.
        likeliest: The likeliest tokens with their log probabilities, descending.
    """

    text: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class TokenEvent:
    """One generated token, or several tokens that a server sent together.

    Attributes:
        token_id: -1 if a server sent only text.
        text: The characters that are final with this token: often those of the token before, possibly none.
        logprobs: One entry for each token that a server sent.
    """

    index: int
    token_id: int
    text: str
    trace: TokenTrace | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Timings:
    """Durations of one request, in seconds.

    Attributes:
        waited_s: Time in the queue.
        ttft_s: From submission to the first token; None without a token.
        decode_s: From the first to the last token; 0 where a server sent the tokens together.
        total_s: From submission to the end.
    """

    waited_s: float
    ttft_s: float | None
    decode_s: float
    total_s: float

    def tokens_per_second(self, completion_tokens: int) -> float | None:
        """Decode speed after the first token; None with fewer than two tokens, and for tokens that arrived in one burst."""
        if completion_tokens < 2 or self.decode_s < MIN_DECODE_S:
            return None
        return (completion_tokens - 1) / self.decode_s


@dataclass(frozen=True)
class FinishEvent:
    """The end of a request. Every stream has exactly one, as its last event.

    Attributes:
        text: Characters that no TokenEvent had. Empty after a stop string, which is never part of the text.
        error: A sentence for visitors, for the reason "error". `cause_of(error)` is for the operator.
        stop_string: The stop string that was found, for the reason "stop_string".
        estimated: The token counts are estimates, because the server did not report them.
        reused: How many tokens of the prompt were not read, because an earlier request had them. For sums only, because a visitor
            must not learn what others have asked.
    """

    reason: FinishReason
    text: str
    prompt_tokens: int
    completion_tokens: int
    timings: Timings
    error: str | None = None
    stop_string: str | None = None
    estimated: bool = False
    reused: int = 0


Event = QueueEvent | PrefillEvent | TokenEvent | FinishEvent


@dataclass(frozen=True)
class BackendInfo:
    """What a backend is and can do. Known before the model is loaded; a remote server may change it with its first reply.

    Attributes:
        context_length: Most tokens of prompt and answer together.
        context_known: False where a remote server does not tell its context. context_length is then the most that is sent to it.
        tile_size: Pixels of a side of one square image tile; 0 if unknown.
        capabilities: Any of "images", "seed", "probabilities" (a TokenTrace with every token), "logprobs" (TokenLogprobs),
            "continue" (GenerationRequest.answered has an effect) and "fork" (a prompt that several requests have is read once).
            The UI disables the controls of the others.
        max_top_k: Most candidates to choose among, see SamplingParams.top_k_within; None for no limit.
        max_prompt: Most tokens of a prompt, if that is less than context_length.
        full_canvas: Every image takes max_tiles tiles, see images.tiles.tile_layout.
        ignored: Sampling values without effect. Maps each name to a sentence with the reason.
        address: Of the server that runs the model, for the operator only; empty for a model in this process.
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
    address: str = ""
    context_known: bool = True

    @property
    def told_context(self) -> int | None:
        """The context in tokens, for people and programs; None where nobody knows it."""
        return self.context_length if self.context_known else None

    def tile_layout(self, width: int, height: int) -> TileLayout | None:
        """Returns the tiles of an image of width × height pixels; None if the tile size is unknown."""
        if not self.tile_size:
            return None
        return tile_layout(width, height, self.tile_size, self.max_tiles, full_canvas=self.full_canvas)


@dataclass(frozen=True)
class ReplicaStatus:
    """The load of one of several copies of the model.

    Attributes:
        name: Of the replica in its cluster.
        node: The address of its machine, for the operator only.
        running, waiting, slots: As in BackendStatus.
    """

    name: str
    node: str
    state: State
    running: int
    waiting: int
    slots: int


@dataclass(frozen=True)
class BackendStatus:
    """The state of a backend at one moment.

    Attributes:
        detail: What is being loaded, or why the backend is down, for visitors. `cause_of(detail)` is for the operator.
        running, waiting: Numbers of requests.
        max_waiting: How many requests may wait.
        estimated_wait_s: Wait of a request sent now: 0 if a slot is free, None while unknown.
        restarts: How often the process of the model was started again.
        last_failure: Why it was started again the last time, for the operator only.
        replicas: The copies of the model, where there are several; the other numbers are their sums.
    """

    state: State
    detail: str
    running: int
    waiting: int
    slots: int
    max_waiting: int
    estimated_wait_s: float | None
    restarts: int = 0
    last_failure: str = ""
    replicas: tuple[ReplicaStatus, ...] = ()


class Backend(Protocol):
    """Generates answers. Methods may be called from any thread; `generate` from a thread with an event loop."""

    @property
    def info(self) -> BackendInfo: ...

    def status(self) -> BackendStatus: ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Queues the request and yields its events; the last one is a FinishEvent. Closing the generator cancels the request.

        Errors are raised before the first event.

        Raises:
            BackendBusy: The queue is full.
            BackendUnavailable: The backend is loading or down.
            PromptTooLong, BadRequest: The request can never run.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Ends a waiting or running request with the reason "cancelled". Ignores unknown ids."""
        ...

    def close(self) -> None:
        """Ends all requests and frees the device. May be called twice."""
        ...


class StartedBackend(Backend, Protocol):
    """A backend that loads in the background. `status().detail` says what is being loaded."""

    @property
    def loaded(self) -> bool:
        """True once the backend has been ready, even if it is down now."""
        ...

    def start(self) -> None:
        """Begins to load or to connect. Returns at once."""
        ...


class SteppedBackend(StartedBackend, Protocol):
    """A backend that computes in this process, so that it can tell what its model is doing.

    Attributes:
        on_admit: Called with the id of a request before the model sees it, from the thread that runs the model.
    """

    on_admit: Callable[[str], None]

    def step_seconds(self) -> float | None:
        """How long the current step of the model has lasted, in seconds; None while the model does nothing."""
        ...
