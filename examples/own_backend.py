"""Serves a backend of your own through the demo's API: this one answers with the words of the question in reverse order.

    PYTHONPATH=. python examples/own_backend.py http://127.0.0.1:7900     # PYTHONPATH is not needed after `pip install .`
    python examples/stream_answer.py http://127.0.0.1:7900                # in another terminal

A backend turns a GenerationRequest into a stream of events, and mllama_demo/engine/base.py says what it promises. This one has a
slot for every request, so that it needs no queue.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import uvicorn

from mllama_demo.assembly import create_app
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.config.settings import Settings
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

SLOTS = 64
SECONDS_PER_WORD = 0.05


class ReversingBackend:
    """A Backend without a model. It sees no images, and its answers depend on no sampling value."""

    loaded = True

    def __init__(self) -> None:
        ignored: dict[str, str] = dict.fromkeys(("temperature", "top_p", "top_k", "seed"), "Nothing is drawn.")
        self.info = BackendInfo(
            "reversing", "reverser", "none", SLOTS, 2048, tile_size=0, max_tiles=0, capabilities=frozenset(), ignored=ignored
        )
        self._running: set[str] = set()

    def start(self) -> None: ...

    def status(self) -> BackendStatus:
        return BackendStatus("ready", "", len(self._running), 0, SLOTS, 0, 0.0)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        started, words = time.perf_counter(), request.messages[-1].text.split()
        answer = words[::-1][: request.sampling.max_tokens]
        reason: FinishReason = "end_of_turn" if len(answer) == len(words) else "max_tokens"
        self._running.add(request.id)
        first_s: float | None = None
        made = 0
        try:
            yield PrefillEvent(len(words), waited_s=0.0)
            for index, word in enumerate(answer):
                await asyncio.sleep(SECONDS_PER_WORD)
                if request.id not in self._running:
                    reason = "cancelled"
                    break
                first_s = first_s or time.perf_counter() - started
                made += 1
                yield TokenEvent(index, token_id=-1, text=word if index == 0 else f" {word}")
            total_s = time.perf_counter() - started
            yield FinishEvent(reason, "", len(words), made, Timings(0.0, first_s, total_s - (first_s or total_s), total_s))
        finally:
            self._running.discard(request.id)

    def cancel(self, request_id: str) -> None:
        self._running.discard(request_id)

    def close(self) -> None:
        self._running.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves a backend without a model.")
    parser.add_argument("url", help="base URL to serve at, such as http://127.0.0.1:7900")
    address = urlsplit(parser.parse_args().url)
    # With a mllama_demo.storage.stores.Stores as its fourth argument, create_app mounts the pages too.
    app = create_app(Settings(api_only=True), ReversingBackend(), TokenEstimate())
    uvicorn.run(app, host=address.hostname or "127.0.0.1", port=address.port or 7900, log_level="warning")


if __name__ == "__main__":
    main()
