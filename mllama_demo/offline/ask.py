"""Answers the prompts of a batch with a backend, and makes a record of each.

A record holds everything that is needed to get the same answer again.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mllama_demo
from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.prompt import render_chat
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import FinishEvent, GenerationRequest, StartedBackend, TokenEvent
from mllama_demo.errors import BackendUnavailable, DemoError
from mllama_demo.generation.request import RequestBuilder, generate_when_free, top_k_limit
from mllama_demo.images.sources import file_digest, read_image
from mllama_demo.offline.batch import SAMPLING_KEYS, InvalidLine, Question, check_concurrency, read_batch
from mllama_demo.offline.job import BatchJob, Round
from mllama_demo.offline.prompt_records import FORMAT, check_same_batch
from mllama_demo.offline.results import Record, Results

_NO_ANSWER = {
    "time_limit": "The answer took longer than request_time_limit_s allows.",
    "cancelled": "The answer was cancelled.",
}


def read_job(file: Path, settings: Settings, concurrency: str | None) -> BatchJob:
    """Reads a batch of prompts.

    Args:
        concurrency: whole numbers with commas; None takes those of the batch.

    Raises:
        ConfigError: the file or the concurrency cannot be used.
    """
    batch = read_batch(file, settings.sampling)
    given = check_concurrency(_numbers(concurrency), "--concurrency") if concurrency else batch.concurrency
    from mllama_demo.backends import make_backend

    backend, tokenizer = make_backend(settings)
    runner = PromptRunner(backend, tokenizer, settings, file.parent)
    questions = [line for line in batch.lines if isinstance(line, Question)]
    # Each round asks all questions. An invalid line is reported in the first round only.
    invalid: dict[Any, Record] = {
        (1, line.line): runner.empty_record(line, 1) for line in batch.lines if isinstance(line, InvalidLine)
    }
    rounds = [
        Round({(number, question.line): question for question in questions}, many)
        for number, many in enumerate(given or (None,), start=1)
    ]
    keys = sorted({*invalid, *(key for round_ in rounds for key in round_.lines)})

    def check(path: Path, results: Results) -> None:
        asked = {key: runner.asked_record(line, key[0]) for round_ in rounds for key, line in round_.lines.items()}
        check_same_batch(path, results, asked)

    return BatchJob(backend, FORMAT, keys, invalid, rounds, lambda key, line: runner.answer(line, key[0]), check)


def _numbers(text: str) -> list[Any]:
    return [int(part) if part.strip().isdecimal() else part for part in text.split(",")]


@dataclass(frozen=True)
class PromptRunner:
    """Answers questions with one backend. The paths of images are relative to `folder`."""

    backend: StartedBackend
    tokenizer: Tokenizer | TokenEstimate
    settings: Settings
    folder: Path

    @cached_property
    def _requests(self) -> RequestBuilder:
        return RequestBuilder(self.backend, self.tokenizer, self.settings)

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

    def asked_record(self, question: Question, round_: int) -> Record:
        """The record to compare an earlier one with, as far as it is known before the backend is started."""
        record = self.empty_record(question, round_)
        if self.settings.backend == "openai":  # the server's model is known only after the first connection
            record["model"] = self.settings.remote_model
        if record["image"] is not None:
            record["image"]["digest"] = file_digest(record["image"]["source"], self.folder)
        return record

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
