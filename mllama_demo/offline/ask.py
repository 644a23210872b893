"""Answers the questions of a batch with a backend, several at the same time, and makes a record of each.

A record holds everything that is needed to get the same answer again. Knows no files of questions or results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import mllama_demo
from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.prompt import render_chat
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import FinishEvent, GenerationRequest, StartedBackend, TokenEvent
from mllama_demo.errors import BackendUnavailable, DemoError
from mllama_demo.generation.request import RequestBuilder, generate_when_free, top_k_limit
from mllama_demo.images.sources import read_image
from mllama_demo.offline.batch import SAMPLING_KEYS, InvalidLine, Question
from mllama_demo.offline.results import Record

_NO_ANSWER = {
    "time_limit": "The answer took longer than request_time_limit_s allows.",
    "cancelled": "The answer was cancelled.",
}


@dataclass(frozen=True)
class BatchRunner:
    """Answers questions with one backend. The paths of images are relative to `folder`."""

    backend: StartedBackend
    tokenizer: Tokenizer | TokenEstimate
    settings: Settings
    folder: Path

    @cached_property
    def _requests(self) -> RequestBuilder:
        return RequestBuilder(self.backend, self.tokenizer, self.settings)

    async def run(
        self, questions: Iterable[Question], round_: int, concurrency: int, on_record: Callable[[Record], None]
    ) -> None:
        """Answers all questions, `concurrency` of them at the same time. The record of a question that fails has an `error`.

        Raises:
            BackendUnavailable: the backend is down, so that the other questions would fail too.
        """
        waiting = iter(questions)

        async def work() -> None:
            for question in waiting:  # the workers share one iterator
                on_record(await self.answer(question, round_))

        workers = [asyncio.create_task(work()) for _ in range(concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def answer(self, question: Question, round_: int) -> Record:
        """The record of one answered or failed question. Raises BackendUnavailable."""
        record = self.empty_record(question, round_)
        try:
            await self._fill(record, question)
        except BackendUnavailable:
            raise
        except DemoError as error:
            record["error"] = str(error)
        return record

    def empty_record(self, line: Question | InvalidLine, round_: int) -> Record:
        """The record of a line without an answer: the question and the model."""
        info = self.backend.info
        question = line if isinstance(line, Question) else None
        parameters = None
        if question is not None:
            parameters = {key: getattr(question.sampling, key) for key in SAMPLING_KEYS}
            parameters["stop"] = list(question.sampling.stop)
        return {
            "round": round_,
            "line": line.line,
            "prompt": question.prompt if question else None,
            "image": {"source": question.image} if question and question.image is not None else None,
            "parameters": parameters,
            "system_prompt": self.settings.system_prompt,
            "model": info.model,
            "backend": info.name,
            "device": info.device,
            "ignored": dict(info.ignored),
            "version": mllama_demo.__version__,
            "prompt_text": None,
            "answer": None,
            "finish_reason": None,
            "stop_string": None,
            "error": line.problem if isinstance(line, InvalidLine) else None,
            "prompt_tokens": None,
            "completion_tokens": None,
            "tokens_estimated": False,
            "timings": None,
        }

    async def _fill(self, record: Record, question: Question) -> None:
        info, sampling = self.backend.info, self._requests.with_seed(question.sampling)
        record["parameters"]["seed"] = sampling.seed
        # A remote backend knows its model only after it is connected.
        record |= {"model": info.model, "device": info.device, "ignored": dict(info.ignored)}
        if (top_k := top_k_limit(sampling, info)) is not None:
            record["parameters"]["top_k_limit"] = top_k
        image, reference = None, None
        if question.image is not None:
            limits, hosts = self.settings.image_limits, self.settings.allowed_media_hosts
            image = await asyncio.to_thread(read_image, question.image, self.folder, limits, hosts)
            reference = ImageRef.of(image)
            record["image"] |= asdict(reference)
            if tiles := info.tile_layout(image.width, image.height):
                record["image"] |= {"rows": tiles.rows, "columns": tiles.columns}
        conversation = Conversation((Message("user", question.prompt, reference),))
        request = (await self._requests.build(conversation, sampling, lambda _: image)).request
        record["prompt_text"] = render_chat(request.messages)
        text, finish = await self._generate(request)
        speed = finish.timings.tokens_per_second(finish.completion_tokens)
        record |= {
            "answer": text,
            "finish_reason": finish.reason,
            "stop_string": finish.stop_string,
            "error": finish.error or _NO_ANSWER.get(finish.reason),
            "prompt_tokens": finish.prompt_tokens,
            "completion_tokens": finish.completion_tokens,
            "tokens_estimated": finish.estimated,
            "timings": {**asdict(finish.timings), "tokens_per_second": speed},
        }

    async def _generate(self, request: GenerationRequest) -> tuple[str, FinishEvent]:
        text = ""
        async with aclosing(generate_when_free(self.backend, request)) as events:
            async for event in events:
                if isinstance(event, TokenEvent):
                    text += event.text
                elif isinstance(event, FinishEvent):
                    return text + event.text, event
        raise RuntimeError("the backend's stream ended without a FinishEvent")
