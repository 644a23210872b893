"""The backend over vLLM in this process, the offline route of AWS's tutorial: its engine steps in a thread and an event loop
of its own. The queue is here, so that everybody sees their place in it; the engine gets as many requests as it has slots.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

from mllama_demo.chat.tokenizer import IncrementalText, Tokenizer
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
from mllama_demo.engine.neuron.compiler_log import telling_of_loading
from mllama_demo.engine.queued_backend import RequestLoop
from mllama_demo.engine.request_queue import Job
from mllama_demo.engine.vllm.engine import Fork, engine_prompt, new_engine, new_sampling_params, prepare_environment
from mllama_demo.errors import BackendUnavailable, BadRequest, DemoError, PromptTooLong
from mllama_demo.runtime.process import MODEL_THREAD

log = logging.getLogger(__name__)
_GRACE_S = 10.0


class VLLMBackend:
    """Runs vLLM's Neuron fork in this process. See base.StartedBackend for the contract."""

    def __init__(
        self,
        settings: Settings,
        info: BackendInfo,
        fork: Fork,
        tokenizer: Tokenizer,
        end_of_turn_ids: frozenset[int],
        warm_up: GenerationRequest,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """warm_up: a question to ask before anybody else does. on_ready and on_down are called from the backend's thread."""
        self._settings, self._info, self._fork = settings, info, fork
        self._tokenizer, self._end_of_turn_ids = tokenizer, end_of_turn_ids
        self._warm_up = warm_up
        self._on_ready, self._on_down = on_ready, on_down
        self._state: State = "loading"
        self._detail = "starting"
        self._loaded = False
        self._closing = False
        self._requests = RequestLoop(lambda: info.slots, settings.max_waiting, self._serve)
        # Everything below belongs to the thread.
        self._engine: Any = None
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=MODEL_THREAD, daemon=True)

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
        # A thread that still imports, compiles or loads need not be waited for: it ends with the program.
        if self._requests.call(self._stop.set) and self._loaded and self._thread is not threading.current_thread():
            self._thread.join(_GRACE_S)

    def status(self) -> BackendStatus:
        return self._requests.status(self._state, self._detail)

    def cancel(self, request_id: str) -> None:
        self._requests.cancel(request_id)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if self._state == "loading":
            raise BackendUnavailable.loading(self._detail)
        if self._state == "down":
            raise BackendUnavailable(self._detail)
        self._check(request)
        async with contextlib.aclosing(self._requests.stream(request)) as events:
            async for event in events:
                yield event

    def _check(self, request: GenerationRequest) -> None:
        length, context = len(request.prompt_ids), self._info.context_length
        limit = min(context - 1, self._info.max_prompt or context)
        if length == 0:
            raise BadRequest("The prompt is empty.")
        if length > limit:
            raise PromptTooLong(f"The prompt has {length} tokens; this model has room for {limit} and an answer.")

    # --- the thread: the engine -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._detail = "importing vLLM"
            prepare_environment(self._settings)
            with telling_of_loading(self._progress):
                self._detail = "loading the model, or compiling it first, which can take an hour"
                self._engine = new_engine(self._settings)
            asyncio.run(self._live())
            self._requests.refuse_all(self._detail)
        except Exception as error:
            if self._closing:
                return
            if not isinstance(error, DemoError):
                log.exception("loading the model failed")
            self._go_down(f"The model could not be loaded: {str(error) or type(error).__name__}")

    def _progress(self, detail: str) -> None:
        self._detail = detail

    async def _live(self) -> None:
        self._detail = "warming up"
        self._requests.open()
        async for event in self._requests.stream(self._warm_up):
            if isinstance(event, FinishEvent) and event.error:
                raise BackendUnavailable(event.error)
        self._requests.queue.forget()  # the first steps are slow: the next waits are not estimated from them
        self._loaded, self._state, self._detail = True, "ready", ""
        try:
            self._on_ready()
        except Exception:
            log.exception("telling that the model is ready failed")
        while not self._stop.is_set() and not self._closing:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)
        self._state, self._detail = "down", SHUTTING_DOWN
        await self._requests.close()

    def _go_down(self, reason: str) -> None:
        if self._state == "down":
            return
        self._state, self._detail = "down", reason
        log.error("%s", reason)
        self._requests.end_all(reason)
        self._on_down(reason)

    # --- the thread: requests -------------------------------------------------------------------------------------------

    async def _serve(self, job: Job) -> FinishEvent:
        prompt, text = len(job.request.prompt_ids), IncrementalText(self._tokenizer, job.request.sampling.stop)
        reason, error = await self._outcome(job, text)
        tail = "" if reason in ("stop_string", "error") else text.finish()
        job.usage = (prompt, job.pieces)
        return replace(job.finish(reason, error, text.stopped, prompt), text=tail)

    async def _outcome(self, job: Job, text: IncrementalText) -> tuple[FinishReason, str | None]:
        try:
            if job.ended is None:
                await self._requests.queue.turn(job)
                return await self._answer(job, text), None
        except asyncio.CancelledError:  # by job.end; and vLLM ends the stream of an aborted request so
            pass
        except Exception as error:
            cause = str(error) or type(error).__name__
            if getattr(self._engine, "errored", False):
                self._go_down(f"The model is down: {cause}")
                return "error", self._detail
            log.exception("request %s failed", job.request.id)
            return "error", f"The model failed on this request: {cause}"
        return job.ended or ("cancelled", None)

    async def _answer(self, job: Job, text: IncrementalText) -> FinishReason:
        request = job.request
        prompt = await self._prompt(request)
        params = new_sampling_params(request.sampling, self._info.max_top_k, self._end_of_turn_ids)
        job.tell(PrefillEvent(len(request.prompt_ids), job.waited_s))
        stream = self._engine.generate(prompt, params, request.id)
        finished = False
        try:
            async for output in stream:
                finished = output.finished
                # The ids are those of the whole answer so far.
                for token_id in output.outputs[0].token_ids[job.pieces :]:
                    reason = self._take(job, text, token_id)
                    if reason is not None:
                        return reason
            return "context_full"  # the engine ends an answer for no other reason that is not seen here
        finally:
            if not finished:
                with contextlib.suppress(Exception):  # of an engine that is down
                    await self._engine.abort(request.id)
                with contextlib.suppress(asyncio.CancelledError):  # which vLLM's streams raise when they are closed
                    await stream.aclose()

    def _take(self, job: Job, text: IncrementalText, token_id: int) -> FinishReason | None:
        """Passes one token on; the reason where the answer ends with it."""
        ended_turn = token_id in self._end_of_turn_ids
        piece = "" if ended_turn else text.push(token_id)
        job.tell(TokenEvent(job.token(), token_id, piece))
        if ended_turn:
            return "end_of_turn"
        if text.stopped is not None:
            return "stop_string"
        return "max_tokens" if job.pieces >= job.request.sampling.max_tokens else None

    async def _prompt(self, request: GenerationRequest) -> dict[str, Any]:
        return await asyncio.to_thread(self._prompt_now, request)

    def _prompt_now(self, request: GenerationRequest) -> dict[str, Any]:
        image = None
        if request.image is not None:
            from mllama_demo.engine.neuron.images import on_full_canvas

            image = on_full_canvas(request.image.pixels, self._info.tile_size, self._info.max_tiles)
        return engine_prompt(request, self._fork, image)
