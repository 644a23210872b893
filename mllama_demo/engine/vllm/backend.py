"""The backend over vLLM's Neuron fork in this process, as in the offline part of AWS's tutorial.

vLLM's engine runs in its own thread and event loop, and gets as many requests as it has slots. Further requests wait in
the queue of this backend, so that each reader learns the position of the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mllama_demo.chat.tokenizer import IncrementalText, Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.answer_end import push_token
from mllama_demo.engine.base import (
    MODEL_DOWN,
    NOT_LOADED,
    REQUEST_FAILED,
    SHUTTING_DOWN,
    BackendInfo,
    FinishEvent,
    FinishReason,
    GenerationRequest,
    PrefillEvent,
    TokenEvent,
)
from mllama_demo.engine.neuron.compiler_log import report_loading
from mllama_demo.engine.neuron.runtime_errors import with_advice
from mllama_demo.engine.queued_backend import QueuedBackend
from mllama_demo.engine.request_queue import Job
from mllama_demo.engine.vllm.engine import VllmFork, engine_prompt, new_engine, new_sampling_params, prepare_environment
from mllama_demo.errors import BackendUnavailable, BadRequest, DemoError, Failure, PromptTooLong, cause_of
from mllama_demo.runtime.process import MODEL_THREAD

log = logging.getLogger(__name__)


class VLLMBackend(QueuedBackend):
    """Runs vLLM's Neuron fork in this process.

    Args:
        end_of_turn_ids: Tokens that end an answer.
        warm_up: A request that is answered before the backend is ready.
    """

    _join_while_loading = False

    def __init__(
        self,
        settings: Settings,
        info: BackendInfo,
        fork: VllmFork,
        tokenizer: Tokenizer,
        end_of_turn_ids: frozenset[int],
        warm_up: GenerationRequest,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda reason: None,
    ) -> None:
        super().__init__(info, settings.max_waiting, MODEL_THREAD, on_ready, on_down)
        self._settings, self._fork = settings, fork
        self._tokenizer, self._end_of_turn_ids = tokenizer, end_of_turn_ids
        self._warm_up = warm_up
        self.on_admit: Callable[[str], None] = lambda request_id: None  # see base.SteppedBackend
        # Only the thread uses the fields below.
        self._engine: Any = None
        self._stop = asyncio.Event()

    # --- from any thread ------------------------------------------------------------------------------------------------

    def step_seconds(self) -> float | None:
        """How long no running request has got a token, in seconds; None while none runs. vLLM does not tell of its steps."""
        running = list(self._requests.queue.running)
        if not running:
            return None
        return time.monotonic() - max(job.last_token or job.admitted or job.submitted for job in running)

    def _check(self, request: GenerationRequest) -> None:
        length, context = len(request.prompt_ids), self._info.context_length
        limit = min(context - 1, self._info.max_prompt or context)
        if length == 0:
            raise BadRequest("The prompt is empty.")
        if length > limit:
            raise PromptTooLong(f"The prompt has {length} tokens; this model has room for {limit} and an answer.")

    def _interrupt(self) -> None:
        self._stop.set()

    # --- the thread: the engine -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._detail = "importing vLLM"
            prepare_environment(self._settings)
            with report_loading(self._progress):
                self._detail = "loading the model, or compiling it first, which can take an hour"
                self._engine = new_engine(self._settings)
            asyncio.run(self._main())
            self._requests.refuse_all(self._detail)
        except Exception as error:
            if self._closing:
                return
            if not isinstance(error, DemoError):
                log.exception("loading the model failed")
            cause = with_advice(cause_of(error) or type(error).__name__)
            self._set_down(Failure(NOT_LOADED, f"The model could not be loaded: {cause}"))

    async def _main(self) -> None:
        self._detail = "warming up"
        self._requests.open()
        async for event in self._requests.stream(self._warm_up):
            if isinstance(event, FinishEvent) and event.error:
                raise BackendUnavailable(event.error)
        self._requests.queue.forget()  # the first steps are slow and would spoil the estimate of waits
        self._loaded, self._state, self._detail = True, "ready", ""
        self._report_ready()
        while not self._stop.is_set() and not self._closing:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)
        self._state, self._detail = "down", SHUTTING_DOWN
        await self._requests.close()

    def _set_down(self, reason: str) -> None:
        if self._state == "down":
            return
        self._state, self._detail = "down", reason
        self._requests.end_all(reason)
        self._report_down(reason)

    # --- the thread: requests -------------------------------------------------------------------------------------------

    async def _serve(self, job: Job) -> FinishEvent:
        prompt, text = len(job.request.prompt_ids), IncrementalText(self._tokenizer, job.request.sampling.stop)
        reason, error = await self._outcome(job, text)
        tail = "" if reason in ("stop_string", "error") else text.finish()
        job.usage = (prompt, job.tokens)
        return replace(job.finish(reason, error, text.stopped, prompt), text=tail)

    async def _outcome(self, job: Job, text: IncrementalText) -> tuple[FinishReason, str | None]:
        try:
            if job.ended is None:
                await self._requests.queue.turn(job)
                return await self._answer(job, text), None
        except asyncio.CancelledError:  # raised by job.end, and by vLLM for an aborted request
            pass
        except Exception as error:
            cause = with_advice(str(error) or type(error).__name__)
            log.exception("request %s failed", job.request.id)
            if getattr(self._engine, "errored", False):
                self._set_down(Failure(MODEL_DOWN, f"The model is down: {cause}"))
                return "error", self._detail
            return "error", Failure(REQUEST_FAILED, f"The model failed on this request: {cause}")
        return job.ended or ("cancelled", None)

    async def _answer(self, job: Job, text: IncrementalText) -> FinishReason:
        request = job.request
        prompt = await asyncio.to_thread(self._build_prompt, request)
        params = new_sampling_params(request.sampling, self._info.max_top_k, self._end_of_turn_ids)
        self.on_admit(request.id)
        job.send(PrefillEvent(len(request.prompt_ids), job.waited_s(time.monotonic())))
        stream = self._engine.generate(prompt, params, request.id)
        finished = False
        try:
            async for output in stream:
                finished = output.finished
                # Each output repeats the token ids of the whole answer.
                for token_id in output.outputs[0].token_ids[job.tokens :]:
                    reason = self._send_token(job, text, token_id)
                    if reason is not None:
                        return reason
            return "context_full"  # _send_token sees every other reason before the engine does
        finally:
            if not finished:
                with contextlib.suppress(Exception):  # raised when the engine is down
                    await self._engine.abort(request.id)
                with contextlib.suppress(asyncio.CancelledError):  # raised by vLLM's stream when it is closed
                    await stream.aclose()

    def _send_token(self, job: Job, text: IncrementalText, token_id: int) -> FinishReason | None:
        """Sends one token to the reader. Returns the reason when the answer ends with this token."""
        new_text, reason = push_token(text, token_id, job.tokens + 1, job.request.sampling, self._end_of_turn_ids)
        job.send(TokenEvent(job.token(), token_id, new_text))
        return reason

    def _build_prompt(self, request: GenerationRequest) -> dict[str, Any]:
        image = None
        if request.image is not None:
            from mllama_demo.engine.neuron.images import on_full_canvas

            image = on_full_canvas(request.image.pixels, self._info.tile_size, self._info.max_tiles)
        return engine_prompt(request, self._fork, image)
