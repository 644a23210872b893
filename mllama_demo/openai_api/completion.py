"""Runs one chat completion: turns the checked body into backend requests, and their events into a response or chunks.

Knows the backend's events and the API's schema. Knows no routes and no HTTP.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Backend, Client, Event, FinishEvent, GenerationRequest, QueueEvent, TokenEvent
from mllama_demo.errors import BadRequest, DemoError, PromptTooLong
from mllama_demo.generation.request import RequestBuilder, renewed
from mllama_demo.images.loading import LoadedImage
from mllama_demo.images.threads import image_at
from mllama_demo.openai_api.logprobs import LOGPROB_CAPABILITIES, LogprobStream, RemoteLogprobStream
from mllama_demo.openai_api.response_schema import (
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    Choice,
    ChunkChoice,
    Delta,
    FinishedBy,
    Logprobs,
    SeenImage,
    TokenLogprob,
    Usage,
)
from mllama_demo.openai_api.schema import ChatMessage, ChatRequest
from mllama_demo.sampling import BOUNDS, MAX_ANSWER_TOKENS, SamplingParams
from mllama_demo.web.errors import ApiError
from mllama_demo.web.limits import client_share

# Messages with more characters per token of the context are refused without tokenizing. The longest tokens have 128 characters.
_CHARACTERS_PER_TOKEN = 256
_FINISH_REASONS: dict[str, FinishedBy] = {"end_of_turn": "stop", "stop_string": "stop"}  # every other reason: "length"


@dataclass
class _ChoiceState:
    """One choice under way."""

    index: int
    logprobs: LogprobStream | RemoteLogprobStream | None
    texts: list[str] = field(default_factory=list)
    entries: list[TokenLogprob] = field(default_factory=list)
    finish: FinishEvent | None = None

    def add(self, event: TokenEvent | FinishEvent) -> tuple[str, Logprobs | None]:
        """Returns the new text and the new log probabilities."""
        if isinstance(event, FinishEvent):
            self.finish = event
            entries = self.logprobs.finish(event) if self.logprobs else []
        else:
            entries = self.logprobs.push(event) if self.logprobs else []
        self.texts.append(event.text)
        self.entries += entries
        return event.text, Logprobs(content=entries) if self.logprobs else None

    @property
    def finish_reason(self) -> FinishedBy:
        assert self.finish is not None
        return _FINISH_REASONS.get(self.finish.reason, "length")

    @property
    def stop_reason(self) -> str | None:
        assert self.finish is not None
        return self.finish.reason if self.finish.reason in ("time_limit", "context_full") else self.finish.stop_string


class Completion:
    """A chat completion that was accepted. Call either chunks() or whole(), once. Cancelling either frees the slots."""

    def __init__(
        self,
        model: str,
        requests: Sequence[GenerationRequest],
        backend: Backend,
        tokenizer: Tokenizer | TokenEstimate,
        image: SeenImage | None,
        body: ChatRequest,
    ) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._requests = requests
        self._backend = backend
        self._image = image
        self._seed = requests[0].sampling.seed
        self._usage_wanted = body.stream_options is not None and bool(body.stream_options.include_usage)
        top = body.top_logprobs or 0

        def logprobs() -> LogprobStream | RemoteLogprobStream | None:
            if not body.logprobs:
                return None
            return RemoteLogprobStream(top) if isinstance(tokenizer, TokenEstimate) else LogprobStream(tokenizer, top)

        self._choices = [_ChoiceState(index, logprobs()) for index in range(len(requests))]

    async def whole(self) -> ChatCompletion:
        """The response, when all choices have ended. Raises ApiError and DemoError."""
        async with aclosing(self._events()) as events:
            async for index, event in events:
                if isinstance(event, (TokenEvent, FinishEvent)):
                    self._choices[index].add(event)
        choices = [
            Choice(
                index=choice.index,
                message=AnswerMessage(content="".join(choice.texts)),
                logprobs=Logprobs(content=choice.entries) if choice.logprobs else None,
                finish_reason=choice.finish_reason,
                stop_reason=choice.stop_reason,
            )
            for choice in self._choices
        ]
        return ChatCompletion(
            id=self.id,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=self._usage(),
            seed=self._seed,
            image=self._image,
        )

    async def chunks(self) -> AsyncGenerator[ChatChunk | QueueEvent, None]:
        """Streams queue positions and then chunks. Raises ApiError and DemoError; a refusal of the backend comes first of all."""
        begun = False
        async with aclosing(self._events()) as events:
            async for index, event in events:
                if isinstance(event, QueueEvent):
                    yield event
                    continue
                if not begun:
                    begun = True
                    for chunk in self._beginning():
                        yield chunk
                if not isinstance(event, (TokenEvent, FinishEvent)):
                    continue
                choice = self._choices[index]
                text, logprobs = choice.add(event)
                if text or (logprobs and logprobs.content):
                    part = ChunkChoice(index=index, delta=Delta(content=text), logprobs=logprobs, finish_reason=None)
                    yield self._chunk([part])
                if isinstance(event, FinishEvent):
                    reasons = {"finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}
                    yield self._chunk([ChunkChoice(index=index, delta=Delta(), logprobs=None, **reasons)])
        if self._usage_wanted:
            yield self._chunk([], self._usage())

    def _beginning(self) -> list[ChatChunk]:
        """One chunk with the role for each choice. The first chunk also has the fields that this server adds."""
        delta = Delta(role="assistant", content="")
        choices = [ChunkChoice(index=c.index, delta=delta, logprobs=None, finish_reason=None) for c in self._choices]
        chunks = [self._chunk([choice]) for choice in choices]
        chunks[0].seed, chunks[0].image = self._seed, self._image
        return chunks

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | None = None) -> ChatChunk:
        chunk = ChatChunk(id=self.id, object="chat.completion.chunk", created=self._created, model=self._model, choices=choices)
        if self._usage_wanted:
            chunk.usage = usage
        return chunk

    async def _events(self) -> AsyncGenerator[tuple[int, Event], None]:
        async with aclosing(_merged([self._backend.generate(request) for request in self._requests])) as events:
            async for index, event in events:
                if isinstance(event, FinishEvent):
                    self._check_end(event)
                yield index, event

    def _check_end(self, finish: FinishEvent) -> None:
        if finish.reason == "error":
            message = finish.error or "The model failed on this request."
            if self._backend.status().state == "ready":
                raise ApiError(500, message, code="generation_failed", reason="")
            raise ApiError(503, message, code="model_unavailable", reason="")
        if finish.reason == "cancelled":
            raise ApiError(503, "The request was ended by the server.", code="cancelled")
        if finish.reason == "time_limit" and finish.completion_tokens == 0:
            message = f"The request waited {finish.timings.total_s:.0f} s, its time limit, without getting its turn."
            wait_s = self._backend.status().estimated_wait_s or 1
            raise ApiError(503, message, code="time_limit", retry_after_s=wait_s, reason="")

    def _usage(self) -> Usage:
        finishes = [choice.finish for choice in self._choices if choice.finish is not None]
        prompt, completion = finishes[0].prompt_tokens, sum(finish.completion_tokens for finish in finishes)
        return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


async def _merged(streams: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[tuple[int, Event], None]:
    """Merges the events of several streams, each with the index of its stream. The first exception ends all streams.

    All streams start before the first event is yielded, so that a refusal of the backend is raised first.
    """
    if len(streams) == 1:  # a queue and a task would double the time that an event takes
        async with aclosing(streams[0]) as events:
            async for event in events:
                yield 0, event
        return
    queue: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(stream):
                async for event in stream:
                    queue.put_nowait((index, event))
        except Exception as error:
            queue.put_nowait((index, error))

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        open_streams = len(streams)
        while open_streams:
            index, event = await queue.get()
            if isinstance(event, Exception):
                raise event
            open_streams -= isinstance(event, FinishEvent)
            yield index, event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class CompletionService:
    """Starts chat completions on one backend."""

    def __init__(self, settings: Settings, backend: Backend, tokenizer: Tokenizer | TokenEstimate) -> None:
        self._settings = settings
        self._backend = backend
        self._tokenizer = tokenizer
        self._requests = RequestBuilder(backend, tokenizer, settings)
        # Threads of its own, so that slow web servers do not block asyncio's shared threads.

    async def begin(self, body: ChatRequest, model: str, client: Client) -> Completion:
        """Checks the sampling values, loads the image and builds the prompt. Raises ApiError and DemoError.

        Args:
            client: who asks. Its requests share its turn in the queue.
        """
        self._check_capabilities(body)
        sampling = self._sampling(body)
        conversation, image, seen = await self._conversation(body.messages)
        built = await self._requests.build(
            conversation, sampling, lambda _: image, client=client, may_drop=False, trace=bool(body.logprobs)
        )
        first = built.request
        # Choice i draws with seed + i, so that the first choice is what n = 1 gives.
        seeds = [None if (seed := first.sampling.seed) is None else (seed + index) % 2**32 for index in range(body.n or 1)]
        requests = [renewed(first, sampling=replace(first.sampling, seed=seed), choices=len(seeds)) for seed in seeds]
        return Completion(model, requests, self._backend, self._tokenizer, seen, body)

    def _check_capabilities(self, body: ChatRequest) -> None:
        capabilities = self._backend.info.capabilities
        if body.uncalled is not None and not self._settings.ignore_tools:
            raise ApiError(400, f"{body.uncalled}: this server calls none; leave them out.", body.uncalled, "unsupported")
        if body.json_mode and not self._settings.ignore_json_mode:
            message = "response_format: no answer of this server is sure to be JSON; ask for JSON in a message, and leave it out."
            raise ApiError(400, message, "response_format", "unsupported")
        ignored = self._backend.info.ignored
        if body.logprobs and not LOGPROB_CAPABILITIES & capabilities:
            raise ApiError.unsupported("logprobs", "the backend that runs the model tells no probabilities")
        if (body.top_k or 0) > 0 and "top_k" in ignored:
            raise ApiError.unsupported("top_k", "the backend that runs the model does not read it")
        if body.seed is not None and "seed" not in capabilities:
            raise ApiError.unsupported("seed", "the backend that runs the model draws without one, so nothing could be repeated")
        if body.ignore_eos and "ignore_eos" in ignored:
            raise ApiError.unsupported("ignore_eos", "the backend that runs the model ends its answers by itself")
        if "images" not in capabilities and any(message.images for message in body.messages):
            raise ApiError.unsupported("messages", "the backend that runs the model takes no images")
        most = client_share(self._backend.status())
        if (body.n or 1) > most:
            raise ApiError(
                400, f"n must be at most {most} here, as many as one client may run and have waiting, got {body.n}.", "n"
            )

    def _sampling(self, body: ChatRequest) -> SamplingParams:
        """The values of the body, and the deployment's where the body has none."""
        settings, longest = self._settings, min(self._backend.info.context_length, MAX_ANSWER_TOKENS)
        limit = min(longest, int(BOUNDS["max_tokens"].maximum)) if body.answer_limit is None else min(body.answer_limit, longest)
        try:
            return SamplingParams(
                temperature=settings.temperature if body.temperature is None else body.temperature,
                top_p=settings.top_p if body.top_p is None else body.top_p,
                top_k=settings.top_k if body.top_k is None else 0 if body.top_k == -1 else body.top_k,
                max_tokens=limit,
                seed=None if body.seed is None else body.seed % 2**32,
                stop=body.stop_strings,
                ignore_eos=bool(body.ignore_eos),
            )
        except BadRequest as error:
            param = str(error).partition(" ")[0]
            if param == "max_tokens" and body.max_completion_tokens is not None:
                raise ApiError(400, str(error).replace(param, "max_completion_tokens", 1), "max_completion_tokens") from None
            raise ApiError.from_demo_error(error, param=param) from None

    async def _conversation(self, messages: Sequence[ChatMessage]) -> tuple[Conversation, LoadedImage | None, SeenImage | None]:
        """The conversation and its newest image. Older images are not loaded, because the model sees only one."""
        characters = sum(len(message.text) for message in messages)
        longest = _CHARACTERS_PER_TOKEN * self._backend.info.context_length
        if characters > longest:
            raise PromptTooLong(f"The messages have {characters:,} characters; at most {longest:,} are read. Shorten the text.")
        with_image = [index for index, message in enumerate(messages) if message.images]
        image = ref = seen = None
        if with_image:
            image = await self._load(messages[with_image[-1]].images[0], with_image[-1])
            ref = ImageRef.of(image)
            seen = self._seen(image, with_image)
        turns = tuple(
            Message(
                "system" if message.role == "developer" else message.role,
                message.text,
                ref if seen is not None and index == seen.message else None,
            )
            for index, message in enumerate(messages)
        )
        return Conversation(turns), image, seen

    async def _load(self, url: str, index: int) -> LoadedImage:
        settings = self._settings

        try:
            return await image_at(url, settings.image_limits, settings.allowed_media_hosts)
        except DemoError as error:
            raise ApiError.from_demo_error(error, param=f"messages[{index}].content") from None

    def _seen(self, image: LoadedImage, with_image: Sequence[int]) -> SeenImage:
        info = self._backend.info
        seen = SeenImage(message=with_image[-1], width=image.width, height=image.height, not_seen=len(with_image) - 1)
        if tiles := info.tile_layout(image.width, image.height):
            seen.rows, seen.columns = tiles.rows, tiles.columns
        return seen
