"""The backend over a remote server of the OpenAI protocol, which runs the model.

One thread keeps the connection, sends requests, reads answers, and probes whether the server still answers. Requests beyond the
server's concurrency wait in the queue of this backend, so that each reader learns the position of the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from cachetools import LRUCache

from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import (
    NOT_LOADED,
    SHUTTING_DOWN,
    BackendInfo,
    FinishEvent,
    FinishReason,
    GenerationRequest,
    PrefillEvent,
    TokenEvent,
)
from mllama_demo.engine.queued_backend import QueuedBackend
from mllama_demo.engine.remote import protocol
from mllama_demo.engine.remote.errors import (
    OPTIONAL_PARAMETERS,
    SERVER,
    RemoteTimeout,
    RemoteUnreachable,
    context_length_refusal,
    logprobs_refusal,
    refused_parameters,
    to_demo_error,
)
from mllama_demo.engine.remote.probe import RemoteServer, new_client, probe
from mllama_demo.engine.remote.providers import (
    LOGPROBS_ARE_MISSING,
    LOGPROBS_ARE_REFUSED,
    LOGPROBS_ARE_TOKEN_IDS,
    PROVIDERS,
    SEED_IS_REFUSED,
)
from mllama_demo.engine.request_queue import Job
from mllama_demo.errors import BackendUnavailable, BadRequest, DemoError, Failure, cause_of
from mllama_demo.images.loading import LoadedImage

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 2.0  # visitors see within three seconds that the server is lost
PROBE_INTERVAL_WHILE_DOWN_S = 1.0
CACHED_IMAGE_URLS = 8
UNKNOWN_CONTEXT = 131072  # tokens; what is sent where nobody knows the context, so that the server decides what is too long


class OpenAIBackend(QueuedBackend):
    """Sends requests to settings.remote_url.

    Args:
        on_down: Called each time that the server stops answering.
        probe_interval_s: Seconds between two probes of a server that answers.

    Attributes:
        estimate: Counts the tokens of a conversation, for prompt.build_prompt. The server has the tokenizer.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda reason: None,
        probe_interval_s: float = PROBE_INTERVAL_S,
    ) -> None:
        self.estimate = TokenEstimate()
        self._settings = settings
        self._url = settings.remote_url
        self._probe_interval_s = probe_interval_s
        self._logprobs_fault: str | None = None  # why the server's log probabilities are not shown
        self._top_logprobs = protocol.TOP_LOGPROBS  # how many alternatives the server allows
        self._refused: frozenset[str] = frozenset()  # parameters that the server does not take
        self._learned_context: int | None = None  # the context that the server named in a refusal
        provider = PROVIDERS["other" if settings.remote_kind == "auto" else settings.remote_kind]
        self._server = RemoteServer(provider, settings.remote_model or "remote", None, None)
        super().__init__(self._info_of(self._server), settings.max_waiting, "remote", on_ready, on_down)
        # Only the thread uses the fields below.
        self._image_urls: LRUCache[str, str] = LRUCache(CACHED_IMAGE_URLS)
        self._client: Any = None
        self._main_task: asyncio.Task[None] | None = None
        self._probe_now = asyncio.Event()

    # --- from any thread ------------------------------------------------------------------------------------------------

    def _check(self, request: GenerationRequest) -> None:
        if not request.messages:
            raise BadRequest("The conversation is empty; ask something first.")
        if request.image is not None and "images" not in self._info.capabilities:
            raise BadRequest(
                f"The model {self._info.model} cannot see images. Ask without an image, or let the operator choose another model."
            )

    # --- the thread: connection and probes ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._detail = "importing the client"
            import openai  # noqa: F401 - takes a second; later the import would block the event loop

            self._detail = Failure("connecting to the server that runs it", f"connecting to {self._url}")
            asyncio.run(self._main())
        except Exception as error:
            if not isinstance(error, DemoError):
                log.exception("the connection to the server failed")
            self._state, self._detail = "down", Failure(NOT_LOADED, cause_of(error) or type(error).__name__)
            self._on_down(self._detail)
        self._requests.refuse_all(self._detail)

    async def _main(self) -> None:
        self._client = new_client(self._settings)
        self._main_task = asyncio.current_task()  # _interrupt cancels the task
        self._requests.open()
        try:
            while not self._closing:
                await self._probe()
                pause = (
                    self._probe_interval_s if self._state == "ready" else min(self._probe_interval_s, PROBE_INTERVAL_WHILE_DOWN_S)
                )
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._probe_now.wait(), pause)
        except asyncio.CancelledError:
            pass
        finally:
            self._main_task = None
            self._state, self._detail = "down", SHUTTING_DOWN
            await self._requests.close()
            await self._client.close()

    def _interrupt(self) -> None:
        if self._main_task is not None:
            self._main_task.cancel()

    async def _probe(self) -> None:
        self._probe_now.clear()
        try:
            self._set_ready(await probe(self._client, self._settings))
        except RemoteTimeout as error:
            if not self._requests.queue.running:  # a server that computes answers may be slow to answer a probe
                self._set_down(_message(error))
        except DemoError as error:
            self._set_down(_message(error))

    def _set_ready(self, server: RemoteServer) -> None:
        if server != self._server:
            self._logprobs_fault, self._top_logprobs = None, protocol.TOP_LOGPROBS
            self._refused, self._learned_context = frozenset(), None
            self._server, self._info = server, self._info_of(server)
            length = f"{server.context_length} tokens of context" if server.context_length else "context unknown"
            log.info("the server at %s, %s, serves %s, %s", self._url, server.provider.label, server.model, length)
            if server.note:
                log.warning("%s", server.note)
        if self._state == "ready":
            return
        first, self._loaded = not self._loaded, True
        self._state, self._detail = "ready", ""
        if first:
            self._report_ready()
        else:
            log.info("the server at %s is back", self._url)

    def _set_down(self, reason: str) -> None:
        """Marks a server that was ready as down. A server that never was ready stays "loading": it may compile for an hour."""
        if self._state == "ready":
            self._state = "down"
            self._report_down(reason)
        elif cause_of(reason) != cause_of(self._detail):
            log.warning("%s", cause_of(reason))
        self._detail = reason
        for job in list(self._requests.queue.waiting):
            job.end("error", reason)

    def _info_of(self, server: RemoteServer) -> BackendInfo:
        settings, provider = self._settings, server.provider
        capabilities, ignored = provider.capabilities, dict(provider.ignored)
        if self._logprobs_fault is not None:
            capabilities, ignored = capabilities - {"logprobs"}, {**ignored, "logprobs": self._logprobs_fault}
        if "seed" in self._refused:
            capabilities, ignored = capabilities - {"seed"}, {**ignored, "seed": SEED_IS_REFUSED}
        # What the server tells, else what the operator says, else nothing: then the server decides what is too long.
        stated = settings.seq_len if "seq_len" in settings.model_fields_set else None
        context_length = server.context_length or self._learned_context or stated
        return BackendInfo(
            name="openai",
            model=server.model,
            device=provider.label,
            address=self._url,
            slots=settings.remote_concurrency or server.slots or provider.concurrency,
            context_length=context_length or UNKNOWN_CONTEXT,
            context_known=context_length is not None,
            tile_size=provider.tile_size,
            max_tiles=provider.max_tiles,
            full_canvas=provider.full_canvas,
            capabilities=capabilities,
            max_top_k=provider.max_top_k,
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
                log.exception("request %s failed because of a bug in the demo", job.request.id)
            asked = [message.text for message in job.request.messages]
            return self._failure(job, to_demo_error(error, self._url, self._settings.remote_api_key, asked))
        reason, message = job.ended or ("cancelled", None)
        return self._finish(job, reason) if message is None else self._failure(job, BackendUnavailable(message))

    def _failure(self, job: Job, error: DemoError) -> FinishEvent | DemoError:
        """Returns the outcome of a failed request: the error before the first event, later a FinishEvent with its message."""
        log.warning("request %s: %s", job.request.id, cause_of(error))
        if isinstance(error, RemoteUnreachable):
            self._set_down(_message(error))
        self._probe_now.set()
        return self._finish(job, "error", _message(error)) if job.has_sent else error

    def _finish(self, job: Job, reason: FinishReason, error: str | None = None, stop_string: str | None = None) -> FinishEvent:
        return job.finish(reason, error, stop_string, self.estimate.count(job.request.messages))

    async def _answer(self, job: Job) -> FinishEvent:
        """Sends the request to the server and the answer to the reader. Raises the exceptions of the client."""
        request, wanted_max_tokens = job.request, job.request.sampling.max_tokens
        url = None if request.image is None else await self._image_url(request.image)
        max_tokens = min(wanted_max_tokens, self._info.context_length - 1)
        try:
            stream = await self._open_stream(request, url, max_tokens)
        except Exception as error:
            # On a context-length error, retry once with the max_tokens that the server says still fit.
            refusal = context_length_refusal(error)
            if refusal is not None and not self._info.context_known:
                self._learned_context = refusal.context_length
                self._info = self._info_of(self._server)
            if refusal is None or refusal.prompt_tokens is None:
                raise
            self.estimate.learn(request.messages, refusal.prompt_tokens)
            left = refusal.context_length - refusal.prompt_tokens
            if not 1 <= left < max_tokens:
                raise
            max_tokens = left
            stream = await self._open_stream(request, url, max_tokens)
        async with stream:
            job.send(PrefillEvent(self.estimate.count(request.messages), job.waited_s(time.monotonic())))
            last = protocol.ParsedChunk()
            had_text = had_logprobs = False
            async for received in stream:
                chunk = protocol.parse_chunk(received)
                if chunk.error is not None:
                    raise self._broken("failed on this request.", f"failed on this request: {chunk.error}")
                had_text, had_logprobs = had_text or bool(chunk.text), had_logprobs or bool(chunk.logprobs)
                job.usage = chunk.usage or job.usage
                last = chunk if chunk.finish else last
                self._send_chunk(job, chunk)
        if job.usage is not None:
            self.estimate.learn(request.messages, job.usage[0])
        if last.finish is None:
            raise self._broken("broke off its answer.", "broke off its answer.")
        if request.trace and "logprobs" in self._info.capabilities and had_text and not had_logprobs:
            self._distrust_logprobs(LOGPROBS_ARE_MISSING)
        reason = protocol.to_finish_reason(last.finish, last.stop_reason, max_tokens, wanted_max_tokens)
        if reason is None:
            raise self._broken("ended its answer early.", f"ended its answer early ({last.finish}).")
        return self._finish(job, reason, stop_string=last.stop_reason if reason == "stop_string" else None)

    def _broken(self, sentence: str, cause: str) -> BackendUnavailable:
        """The error of an answer that is not whole, from the ends of the sentence for visitors and of the cause."""
        return BackendUnavailable(Failure(f"{SERVER} {sentence}", f"The server at {self._url} {cause}"))

    async def _open_stream(self, request: GenerationRequest, image_url: str | None, max_tokens: int) -> Any:
        """Begins an answer.

        Where the server refuses the log probabilities, asks again for fewer of them, at last for none. Where it does not take
        another parameter that no answer needs, asks again without it, and does not send it any more if that helps.
        """
        refused = self._refused
        while True:
            asked = self._top_logprobs
            try:
                stream = await self._create_stream(request, image_url, max_tokens, refused)
                self._remember_refused(refused)
                return stream
            except Exception as error:
                allowed = logprobs_refusal(error, asked) if request.trace and asked else None
                if allowed is None:
                    more = refused_parameters(error, (*OPTIONAL_PARAMETERS, "max_tokens")) - refused
                    if not more or context_length_refusal(error) is not None:
                        raise
                    refused |= more
                    continue
            self._top_logprobs = min(allowed, self._top_logprobs)
            if not self._top_logprobs and self._logprobs_fault is None:
                self._distrust_logprobs(LOGPROBS_ARE_REFUSED)

    def _create_stream(
        self, request: GenerationRequest, image_url: str | None, max_tokens: int, refused: frozenset[str]
    ) -> Coroutine[Any, Any, Any]:
        server, top_logprobs = self._server, self._top_logprobs
        arguments = protocol.completion_arguments(
            request, server.provider, server.model, image_url, max_tokens, top_logprobs, refused
        )
        # A server such as vLLM makes its own id from the header, which must differ among the requests of one grid.
        headers = {"X-Request-Id": f"{request.request_id}-{request.id[:8]}"} if request.request_id else {}
        return self._client.chat.completions.create(**arguments, extra_headers=headers)

    def _remember_refused(self, refused: frozenset[str]) -> None:
        if refused != self._refused:
            log.warning("The server at %s does not take %s; it is not sent any more.", self._url, " and ".join(sorted(refused)))
            self._refused = refused
            self._info = self._info_of(self._server)

    def _send_chunk(self, job: Job, chunk: protocol.ParsedChunk) -> None:
        shown = job.request.trace and self._logprobs_fault is None and (chunk.text or not chunk.thinks)
        logprobs = chunk.logprobs if shown else ()
        if not protocol.are_log_probabilities(logprobs):
            logprobs = ()
            self._distrust_logprobs(LOGPROBS_ARE_TOKEN_IDS)
        if chunk.text or logprobs:
            job.send(TokenEvent(job.token(), -1, chunk.text, logprobs=logprobs))
        elif chunk.thinks:
            job.send(TokenEvent(job.token(), -1, ""))  # a sign of life: thinking may take minutes

    def _distrust_logprobs(self, fault: str) -> None:
        self._logprobs_fault = fault
        self._info = self._info_of(self._server)
        log.warning("%s Probabilities are not shown.", fault)

    async def _image_url(self, image: LoadedImage) -> str:
        """Encodes the image. Each question of a conversation sends its image again, so the newest data URLs are cached."""
        url = self._image_urls.get(image.digest) or await asyncio.to_thread(protocol.data_url, image)
        self._image_urls[image.digest] = url
        return url


def _message(error: DemoError) -> str:
    """The message of an error, with its cause. `str(error)` would lose the cause."""
    return error.args[0] if error.args else str(error)
