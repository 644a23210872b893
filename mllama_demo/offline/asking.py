"""Asks a backend the questions of a batch, several at once, and says of each what came of it.

A record holds all that is needed to ask again and get the same. Knows no files of questions or results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import asdict, dataclass
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
from mllama_demo.offline.batch import SAMPLING_KEYS, BadLine, Question
from mllama_demo.offline.results import Record

_NO_ANSWER = {
    "time_limit": "The answer took longer than request_time_limit_s allows.",
    "cancelled": "The answer was cancelled.",
}


@dataclass(frozen=True)
class Asker:
    """folder: where the paths of images begin."""

    backend: StartedBackend
    tokenizer: Tokenizer | TokenEstimate
    settings: Settings
    folder: Path

    async def ask_all(self, questions: Iterable[Question], round_: int, at_once: int, say: Callable[[Record], None]) -> None:
        """Asks all questions, at_once at a time; say gets each record as it comes.

        A question that fails has `error` in its record. Raises BackendUnavailable when the backend is down, since the other
        questions would fare no better.
        """
        left = iter(questions)

        async def work() -> None:
            for question in left:  # one iterator for all: whoever is free takes the next
                say(await self.ask(question, round_))

        workers = [asyncio.create_task(work()) for _ in range(at_once)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def ask(self, question: Question, round_: int) -> Record:
        """One question to its end."""
        record = self.blank(question, round_)
        try:
            await self._answer(question, record)
        except BackendUnavailable:
            raise
        except DemoError as error:
            record["error"] = str(error)
        return record

    def blank(self, line: Question | BadLine, round_: int) -> Record:
        """The record of a line before it is asked: what is asked, of whom."""
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
            "error": line.problem if isinstance(line, BadLine) else None,
            "prompt_tokens": None,
            "completion_tokens": None,
            "tokens_estimated": False,
            "timings": None,
        }

    async def _answer(self, question: Question, record: Record) -> None:
        requests = RequestBuilder(self.backend, self.tokenizer, self.settings)
        info, sampling = self.backend.info, requests.with_seed(question.sampling)
        record["parameters"]["seed"] = sampling.seed
        record |= {"model": info.model, "device": info.device, "ignored": dict(info.ignored)}  # a server tells once it is there
        if (top_k := top_k_limit(sampling, info)) is not None:
            record["parameters"]["top_k_limit"] = top_k
        picture, reference = None, None
        if question.image is not None:
            limits, hosts = self.settings.image_limits, self.settings.allowed_media_hosts
            picture = await asyncio.to_thread(read_image, question.image, self.folder, limits, hosts)
            reference = ImageRef.of(picture)
            record["image"] |= asdict(reference)
            if tiles := info.tile_layout(picture.width, picture.height):
                record["image"] |= {"rows": tiles.rows, "columns": tiles.columns}
        conversation = Conversation((Message("user", question.prompt, reference),))
        request = (await requests.build(conversation, sampling, lambda _: picture)).request
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
