"""For the tests above the backend: a Backend whose every event the test sends by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.engine.base import (
    BackendInfo,
    BackendStatus,
    Event,
    FinishEvent,
    FinishReason,
    GenerationRequest,
    PrefillEvent,
    Timings,
    TokenEvent,
)
from tests.support.waiting import until

PATIENCE_S = 20.0


class ManualBackend:
    """A Backend whose every event a test sends by hand.

    refusal: raised by generate instead of taking the request. As base.Backend promises, cancel ends a request that was taken
    and ignores all others. closed: requests whose stream has ended, in order.
    """

    def __init__(self, context_length: int = 30_000) -> None:
        self.info = BackendInfo("by hand", "a model", "cpu", 2, context_length, tile_size=32, max_tiles=4)
        self.state: Any = "ready"
        self.restarts = 0
        self.refusal: Exception | None = None
        self.requests: list[GenerationRequest] = []
        self.cancelled: list[str] = []
        self.closed: list[str] = []
        self._mail: dict[str, asyncio.Queue[Event | Exception]] = {}
        self._returned = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if self.refusal is not None:
            raise self.refusal
        mail = self._mail[request.id] = asyncio.Queue()
        self.requests.append(request)
        try:
            while True:
                event = await mail.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, FinishEvent):
                    return
        finally:
            del self._mail[request.id]
            self.closed.append(request.id)

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)
        if request_id in self._mail:
            self._mail[request_id].put_nowait(finished("cancelled"))

    def status(self) -> BackendStatus:
        return BackendStatus(self.state, "", len(self._mail), 0, 2, 8, 0.0, self.restarts)

    def close(self) -> None: ...

    async def taken(self) -> GenerationRequest:
        """Waits for the next request; each is returned once."""
        await until(lambda: len(self.requests) > self._returned, f"request number {self._returned + 1}")
        self._returned += 1
        return self.requests[self._returned - 1]

    def send(self, *events: Event | Exception) -> None:
        """To the latest request."""
        self.send_to(self.requests[-1].id, *events)

    def send_to(self, request_id: str, *events: Event | Exception) -> None:
        for event in events:
            self._mail[request_id].put_nowait(event)

    def say(self, *texts: str) -> None:
        """Tokens for the latest request."""
        self.send(*(TokenEvent(index, 7, text) for index, text in enumerate(texts)))


READ = PrefillEvent(prompt_tokens=5, waited_s=0.5)


def finished(reason: FinishReason = "end_of_turn", text: str = "", error: str | None = None, tokens: int = 3) -> FinishEvent:
    return FinishEvent(reason, text, 5, tokens, Timings(0.5, 1.5, 2.0, 3.5), error)


def conversation_of(*texts: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], text) for i, text in enumerate(texts)), title="a talk")
