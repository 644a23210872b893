"""One chat completion: from a checked request to prompts in the queue, and from their events to the API's answer or chunks.

Knows the backend's nouns and the API's shapes; no routes, no HTTP.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Backend, Event, FinishEvent, GenerationRequest, QueueEvent, TokenEvent
from mllama_demo.errors import BadRequest, DemoError, PromptTooLong
from mllama_demo.generation.request import RequestBuilder, renewed
from mllama_demo.images.fetch import fetch_image
from mllama_demo.images.loading import LoadedImage
from mllama_demo.openai_api.logprobs import LogprobStream
from mllama_demo.openai_api.schema import (
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    ChatMessage,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    FinishedBy,
    Logprobs,
    SeenImage,
    TokenLogprob,
    Usage,
)
from mllama_demo.sampling import BOUNDS, SamplingParams
from mllama_demo.web.errors import ApiError, of_demo_error

IMAGE_THREADS = 8
# No text of more characters than this for each token of the context is even tokenized; the longest tokens have 128.
_CHARACTERS_PER_TOKEN = 256
_FINISHED_BY: dict[str, FinishedBy] = {"end_of_turn": "stop", "stop_string": "stop"}  # anything else: "length"


@dataclass
class _Writer:
    """One choice, growing."""

    index: int
    logprobs: LogprobStream | None
    texts: list[str] = field(default_factory=list)
    entries: list[TokenLogprob] = field(default_factory=list)
    finish: FinishEvent | None = None
    stop_reason: str | None = None

    def take(self, event: TokenEvent | FinishEvent) -> tuple[str, Logprobs | None]:
        """What is new with this event."""
        if isinstance(event, FinishEvent):
            self.finish = event
            entries = self.logprobs.finish(event) if self.logprobs else []
        else:
            entries = self.logprobs.push(event) if self.logprobs else []
        self.texts.append(event.text)
        self.entries += entries
        return event.text, Logprobs(content=entries) if self.logprobs else None

    @property
    def finished_by(self) -> FinishedBy:
        assert self.finish is not None
        return _FINISHED_BY.get(self.finish.reason, "length")


class Completion:
    """A request that was taken. Iterate chunks() or await whole(), once; closing either frees the slots."""

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
        # Without a tokenizer there are no traces to tell either, and a request for them was refused.
        words = tokenizer if body.logprobs and not isinstance(tokenizer, TokenEstimate) else None
        self._writers = [_Writer(index, LogprobStream(words, top) if words else None) for index in range(len(requests))]

    async def whole(self) -> ChatCompletion:
        """The answer once all choices have ended. Raises ApiError and DemoError."""
        async with aclosing(self._events()) as events:
            async for index, event in events:
                if isinstance(event, (TokenEvent, FinishEvent)):
                    self._writers[index].take(event)
        choices = [
            Choice(
                index=writer.index,
                message=AnswerMessage(content="".join(writer.texts)),
                logprobs=Logprobs(content=writer.entries) if writer.logprobs else None,
                finish_reason=writer.finished_by,
                stop_reason=self._stop_reason(writer),
            )
            for writer in self._writers
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
        """The answer as it grows, and the place in the queue before. Raises ApiError and DemoError, which a refusal of the
        backend does before the first chunk."""
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
                writer = self._writers[index]
                text, logprobs = writer.take(event)
                if text or (logprobs and logprobs.content):
                    yield self._chunk(
                        [ChunkChoice(index=index, delta=Delta(content=text), logprobs=logprobs, finish_reason=None)]
                    )
                if isinstance(event, FinishEvent):
                    end = ChunkChoice(
                        index=index,
                        delta=Delta(),
                        logprobs=None,
                        finish_reason=writer.finished_by,
                        stop_reason=self._stop_reason(writer),
                    )
                    yield self._chunk([end])
        if self._usage_wanted:
            yield self._chunk([], self._usage())

    def _beginning(self) -> list[ChatChunk]:
        """A chunk with the role for each choice; the first also tells what is special to this answer."""
        delta = Delta(role="assistant", content="")
        chunks = [
            self._chunk([ChunkChoice(index=w.index, delta=delta, logprobs=None, finish_reason=None)]) for w in self._writers
        ]
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
                raise ApiError(500, message, code="generation_failed")
            raise ApiError(503, message, code="model_unavailable")
        if finish.reason == "cancelled":
            raise ApiError(503, "The request was ended by the server.", code="cancelled")
        if finish.reason == "time_limit" and finish.completion_tokens == 0:
            message = f"The request waited {finish.timings.total_s:.0f} s, its time limit, without getting its turn."
            raise ApiError(503, message, code="time_limit", retry_after_s=self._backend.status().estimated_wait_s or 1)

    def _stop_reason(self, writer: _Writer) -> str | None:
        assert writer.finish is not None
        if writer.finish.reason in ("time_limit", "context_full"):
            return writer.finish.reason
        return writer.finish.stop_string

    def _usage(self) -> Usage:
        finishes = [writer.finish for writer in self._writers if writer.finish is not None]
        read, written = finishes[0].prompt_tokens, sum(finish.completion_tokens for finish in finishes)
        return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


async def _merged(streams: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of several streams, each with its stream's index, as they come; the first failure ends all.

    Every stream is begun before any event can come, so what a backend refuses is raised before the first event.
    """
    box: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(stream):
                async for event in stream:
                    box.put_nowait((index, event))
        except Exception as error:
            box.put_nowait((index, error))

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        open_streams = len(streams)
        while open_streams:
            index, event = await box.get()
            if isinstance(event, Exception):
                raise event
            open_streams -= isinstance(event, FinishEvent)
            yield index, event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Completer:
    """Turns requests into Completions, for one backend."""

    def __init__(self, settings: Settings, backend: Backend, tokenizer: Tokenizer | TokenEstimate) -> None:
        self._settings = settings
        self._backend = backend
        self._tokenizer = tokenizer
        self._requests = RequestBuilder(backend, tokenizer, settings)
        # Slow web servers must not keep the rest of the program from its own threads.
        self._image_threads = ThreadPoolExecutor(IMAGE_THREADS, thread_name_prefix="images")

    async def begin(self, body: ChatRequest, model: str, caller: str) -> Completion:
        """Everything before the queue: sampling values, the image, the prompt. Raises ApiError and DemoError.

        caller: requests of the same one share a fair turn.
        """
        self._check_capabilities(body)
        sampling = self._sampling(body)
        conversation, image, seen = await self._conversation(body.messages)
        built = await self._requests.build(
            conversation, sampling, lambda _: image, conversation_id=caller, may_drop=False, trace=bool(body.logprobs)
        )
        first = built.request
        # Choice i draws with seed + i, so that the first choice is what n = 1 gives.
        seeds = [None if (seed := first.sampling.seed) is None else (seed + index) % 2**32 for index in range(body.n or 1)]
        requests = [renewed(first, sampling=replace(first.sampling, seed=seed)) for seed in seeds]
        return Completion(model, requests, self._backend, self._tokenizer, seen, body)

    def _check_capabilities(self, body: ChatRequest) -> None:
        has = self._backend.info.capabilities
        if body.logprobs and "probabilities" not in has:
            raise _unable("logprobs", "the backend that runs the model tells no probabilities")
        if body.seed is not None and "seed" not in has:
            raise _unable("seed", "the backend that runs the model draws without one, so nothing could be repeated")
        if body.ignore_eos and "ignore_eos" in self._backend.info.ignored:
            raise _unable("ignore_eos", "the backend that runs the model ends its answers by itself")
        if "images" not in has and any(message.images for message in body.messages):
            raise _unable("messages", "the backend that runs the model takes no images")
        status = self._backend.status()
        most = status.slots + status.max_waiting
        if (body.n or 1) > most:
            raise ApiError(400, f"n must be at most {most} here, as many as can run and wait, got {body.n}.", "n")

    def _sampling(self, body: ChatRequest) -> SamplingParams:
        """The values of the body, and the deployment's where the body has none."""
        settings, longest = self._settings, self._backend.info.context_length
        limit = min(longest, int(BOUNDS["max_tokens"].maximum)) if body.longest is None else min(body.longest, longest)
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
            raise of_demo_error(error, param=param) from None

    async def _conversation(self, messages: Sequence[ChatMessage]) -> tuple[Conversation, LoadedImage | None, SeenImage | None]:
        """The conversation, in which only the newest image is loaded, since the model sees no other."""
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

        def fetch() -> LoadedImage:
            return fetch_image(url, settings.image_limits, allowed_hosts=settings.allowed_media_hosts)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._image_threads, fetch)
        except DemoError as error:
            raise of_demo_error(error, param=f"messages[{index}].content") from None

    def _seen(self, image: LoadedImage, with_image: Sequence[int]) -> SeenImage:
        info = self._backend.info
        seen = SeenImage(message=with_image[-1], width=image.width, height=image.height, not_seen=len(with_image) - 1)
        if tiles := info.tile_layout(image.width, image.height):
            seen.rows, seen.columns = tiles.rows, tiles.columns
        return seen


def _unable(param: str, why: str) -> ApiError:
    return ApiError(400, f"{param} cannot be used: {why}.", param, "unsupported")
