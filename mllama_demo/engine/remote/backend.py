"""The backend over a server of the OpenAI protocol: one thread keeps the connection, sends and reads, and looks whether the
server is still there. The server runs the model; the queue is here, so that everybody sees their place in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import (
    SHUTTING_DOWN,
    BackendInfo,
    BackendStatus,
    Event,
    FinishEvent,
    FinishReason,
    GenerationRequest,
    PrefillEvent,
    State,
    TokenEvent,
)
from mllama_demo.engine.queued_backend import RequestLoop
from mllama_demo.engine.remote import protocol as wire
from mllama_demo.engine.remote.errors import RemoteTimeout, RemoteUnreachable, explained, too_long
from mllama_demo.engine.remote.probe import RemoteServer, look, new_client
from mllama_demo.engine.remote.providers import PROVIDERS, WRONG_LOGPROBS
from mllama_demo.engine.request_queue import Job
from mllama_demo.errors import BackendUnavailable, BadRequest, DemoError
from mllama_demo.images.loading import LoadedImage

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
LOOK_EVERY_S_WHILE_DOWN = 1.0
ENCODED_IMAGES = 8


class OpenAIBackend:
    """Sends requests to settings.remote_url. See base.StartedBackend for the contract.

    estimate: counts the tokens of a conversation, for prompt.build_prompt, since the tokenizer is the server's.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda reason: None,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        """on_ready: called once, when the server is there for the first time; on_down: each time that it is gone."""
        self.estimate = TokenEstimate()
        self._settings = settings
        self._url = settings.remote_url
        self._on_ready, self._on_down = on_ready, on_down
        self._look_every_s = look_every_s
        self._state: State = "loading"
        self._detail = "starting"
        self._loaded = False
        self._wrong_logprobs = False
        kind = PROVIDERS["other" if settings.remote_kind == "auto" else settings.remote_kind]
        self._server = RemoteServer(kind, settings.remote_model or "remote", None, None)
        self._info = self._info_of(self._server)
        self._requests = RequestLoop(lambda: self._info.slots, settings.max_waiting, self._serve)
        # Everything below belongs to the thread.
        self._image_urls: OrderedDict[str, str] = OrderedDict()
        self._closing = False
        self._client: Any = None
        self._life: asyncio.Task[None] | None = None
        self._look_now = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="remote", daemon=True)

    # --- from any thread ------------------------------------------------------------------------------------------------

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def loaded(self) -> bool:
        return self._loaded

    def start(self) -> None:
        if not self._closing:
            self._thread.start()

    def close(self) -> None:
        self._closing = True
        # A thread that still imports the client need not be waited for: it ends with the program.
        if self._requests.call(self._interrupt) and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)

    def status(self) -> BackendStatus:
        return self._requests.status(self._state, self._detail)

    def cancel(self, request_id: str) -> None:
        self._requests.cancel(request_id)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if self._state == "loading":
            raise BackendUnavailable.loading(self._detail)
        if self._state == "down":
            raise BackendUnavailable(self._detail)
        if not request.messages:
            raise BadRequest("The conversation is empty; ask something first.")
        async with contextlib.aclosing(self._requests.stream(request)) as events:
            async for event in events:
                yield event

    # --- the thread: is the server there? -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._detail = "importing the client"
            import openai  # noqa: F401 - here, since it takes a second and an event loop would stand still meanwhile

            self._detail = f"connecting to {self._url}"
            asyncio.run(self._live())
        except Exception as error:
            if not isinstance(error, DemoError):
                log.exception("the connection to the server failed")
            self._state, self._detail = "down", str(error) or type(error).__name__
            self._on_down(self._detail)
        self._requests.refuse_all(self._detail)

    async def _live(self) -> None:
        self._client = new_client(self._settings)
        self._life = asyncio.current_task()  # while it may be interrupted
        self._requests.open()
        try:
            while not self._closing:
                await self._look()
                pause = self._look_every_s if self._state == "ready" else min(self._look_every_s, LOOK_EVERY_S_WHILE_DOWN)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._look_now.wait(), pause)
        except asyncio.CancelledError:
            pass
        finally:
            self._life = None
            self._state, self._detail = "down", SHUTTING_DOWN
            await self._requests.close()
            await self._client.close()

    def _interrupt(self) -> None:
        if self._life is not None:
            self._life.cancel()

    async def _look(self) -> None:
        self._look_now.clear()
        try:
            self._come_up(await look(self._client, self._settings))
        except RemoteTimeout as error:
            if not self._requests.queue.running:  # a server that is busy with our requests may be slow to answer anything else
                self._go_down(str(error))
        except DemoError as error:
            self._go_down(str(error))

    def _come_up(self, server: RemoteServer) -> None:
        if server != self._server:
            self._server, self._info = server, self._info_of(server)
            length = f", {server.context_length} tokens of context" if server.context_length else ""
            log.info("the server at %s, %s, serves %s%s", self._url, server.kind.label, server.model, length)
        if self._state == "ready":
            return
        first, self._loaded = not self._loaded, True
        self._state, self._detail = "ready", ""
        if first:
            self._on_ready()
        else:
            log.info("the server at %s is back", self._url)

    def _go_down(self, reason: str) -> None:
        """Until the server was there for the first time it is waited for: it may compile its model for an hour."""
        if self._state == "ready":
            self._state = "down"
            log.error("%s", reason)
            self._on_down(reason)
        elif reason != self._detail:
            log.warning("%s", reason)
        self._detail = reason
        for job in list(self._requests.queue.waiting):
            job.end("error", reason)

    def _info_of(self, server: RemoteServer) -> BackendInfo:
        settings, kind = self._settings, server.kind
        capabilities, ignored = kind.capabilities, dict(kind.ignored)
        if self._wrong_logprobs:
            capabilities, ignored = capabilities - {"logprobs"}, {**ignored, "logprobs": WRONG_LOGPROBS}
        return BackendInfo(
            name="openai",
            model=server.model,
            device=f"{kind.label} at {self._url}",
            slots=settings.remote_concurrency or server.slots or kind.concurrency,
            context_length=server.context_length or settings.seq_len,
            tile_size=kind.tile_size,
            max_tiles=kind.max_tiles,
            capabilities=capabilities,
            max_top_k=kind.max_top_k,
            ignored=ignored,
        )

    # --- the thread: requests -------------------------------------------------------------------------------------------

    async def _serve(self, job: Job) -> FinishEvent | DemoError:
        try:
            if job.ended is None:
                await self._requests.queue.turn(job)
                return await self._answer(job)
        except asyncio.CancelledError:
            pass
        except Exception as error:
            module = type(error).__module__.partition(".")[0]
            if not isinstance(error, (DemoError, ValueError)) and module not in ("openai", "httpx", "httpx2"):
                log.exception("request %s failed by a mistake of this program", job.request.id)
            return self._failure(job, explained(error, self._url, self._settings.remote_api_key))
        reason, why = job.ended or ("cancelled", None)
        return self._finish(job, reason) if why is None else self._failure(job, BackendUnavailable(why))

    def _failure(self, job: Job, error: DemoError) -> FinishEvent | DemoError:
        """Before the first event the error is the outcome; later it is the reason why the answer ended."""
        log.warning("request %s: %s", job.request.id, error)
        if isinstance(error, RemoteUnreachable):
            self._go_down(str(error))
        self._look_now.set()
        return self._finish(job, "error", str(error)) if job.told else error

    def _finish(self, job: Job, reason: FinishReason, error: str | None = None, stop_string: str | None = None) -> FinishEvent:
        return job.finish(reason, error, stop_string, self.estimate.count(job.request.messages))

    async def _answer(self, job: Job) -> FinishEvent:
        """Asks, and passes on what comes. Raises whatever the client raises."""
        request, wanted = job.request, job.request.sampling.max_tokens
        url = None if request.image is None else await self._image_url(request.image)
        asked_for = min(wanted, self._info.context_length - 1)
        try:
            stream = await self._ask(request, url, asked_for)
        except Exception as error:
            # How much of the context is left knows who counts the tokens: it says so, and is asked for as many.
            refusal = too_long(error)
            if refusal is None or refusal.prompt is None:
                raise
            self.estimate.learn(request.messages, refusal.prompt)
            left = refusal.limit - refusal.prompt
            if not 1 <= left < asked_for:
                raise
            asked_for = left
            stream = await self._ask(request, url, asked_for)
        async with stream:
            job.tell(PrefillEvent(self.estimate.count(request.messages), job.waited_s))
            last = wire.Piece()
            async for chunk in stream:
                piece = wire.piece(chunk)
                if piece.error is not None:
                    raise BackendUnavailable(f"The server at {self._url} failed on this request: {piece.error}")
                job.usage = piece.usage or job.usage
                last = piece if piece.finish else last
                self._pass_on(job, piece)
        if job.usage is not None:
            self.estimate.learn(request.messages, job.usage[0])
        if last.finish is None:
            raise BackendUnavailable(f"The server at {self._url} broke off its answer.")
        reason = wire.reason(last.finish, last.stop_reason, asked_for, wanted)
        if reason is None:
            raise BackendUnavailable(f"The server at {self._url} ended its answer early ({last.finish}).")
        return self._finish(job, reason, stop_string=last.stop_reason if reason == "stop_string" else None)

    def _ask(self, request: GenerationRequest, image_url: str | None, max_tokens: int) -> Coroutine[Any, Any, Any]:
        server = self._server
        return self._client.chat.completions.create(**wire.body(request, server.kind, server.model, image_url, max_tokens))

    def _pass_on(self, job: Job, piece: wire.Piece) -> None:
        logprobs = piece.logprobs if job.request.trace and not self._wrong_logprobs else ()
        if not wire.credible(logprobs):
            logprobs, self._wrong_logprobs = (), True
            self._info = self._info_of(self._server)
            log.warning("%s Probabilities are not shown.", WRONG_LOGPROBS)
        if piece.text or logprobs:
            job.tell(TokenEvent(job.token(), -1, piece.text, logprobs=logprobs))

    async def _image_url(self, image: LoadedImage) -> str:
        """The last few are kept: every question of a conversation sends its image again."""
        url = self._image_urls.pop(image.digest, None) or await asyncio.to_thread(wire.data_url, image)
        self._image_urls[image.digest] = url
        while len(self._image_urls) > ENCODED_IMAGES:
            self._image_urls.popitem(last=False)
        return url
