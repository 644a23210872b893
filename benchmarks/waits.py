"""Compares the waits that a server estimates with the actual ones, for requests of many lengths at once.

    python app.py --api-only --port 7860 &
    python -m benchmarks waits http://127.0.0.1:7860/v1

Short questions come first, so that the server knows of short answers only. Then more requests than there are slots are sent at
once, some of which go on to a large max_tokens. A stream has the place in the queue and the estimate as comments; the wait
ends with the first chunk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from benchmarks.record import write

_COMMENT = re.compile(r": waiting, number (\d+) in line(?:, about (\d+) s)?")
LENGTHS = (16, 400, 60, 200)  # max_tokens of the requests, in turn; those above 100 go on to the end


@dataclass
class Wait:
    """position and estimated_s: of the first comment of a stream. actual_s: from that comment to the slot."""

    position: int
    estimated_s: float | None
    actual_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", help="the base URL with its /v1")
    parser.add_argument("--requests", type=int, default=16, help="how many are sent at once")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--json", type=Path, help="write every wait here too")
    args = parser.parse_args()
    waits = asyncio.run(_measure(args))
    print("position  estimated s  actual s")
    for wait in waits:
        estimated = "unknown" if wait.estimated_s is None else f"{wait.estimated_s:.0f}"
        print(f"{wait.position:8}  {estimated:>11}  {wait.actual_s:8.1f}")
    errors = [abs(wait.estimated_s - wait.actual_s) for wait in waits if wait.estimated_s is not None]
    if errors:
        mean = statistics.mean(wait.actual_s for wait in waits)
        print(f"The estimate is off by {statistics.mean(errors):.1f} s on average, of waits of {mean:.1f} s.")
    write(args.json, [asdict(wait) for wait in waits])


async def _measure(args: argparse.Namespace) -> list[Wait]:
    headers = {"Authorization": f"Bearer {args.api_key}"}
    async with httpx.AsyncClient(headers=headers, timeout=600, trust_env=False) as client:
        for _ in range(4):
            await _ask(client, args.url, 8)
        tasks = [asyncio.create_task(_ask(client, args.url, LENGTHS[n % len(LENGTHS)])) for n in range(args.requests)]
        found = [wait for wait in await asyncio.gather(*tasks) if wait is not None]
    return sorted(found, key=lambda wait: wait.position)


async def _ask(client: httpx.AsyncClient, url: str, max_tokens: int) -> Wait | None:
    """One streamed request to its end; None when it got a slot at once."""
    message = {"role": "user", "content": "Tell me a story."}
    body = {"messages": [message], "max_tokens": max_tokens, "ignore_eos": max_tokens > 100, "stream": True, "temperature": 1.0}
    told: tuple[float, int, float | None] | None = None
    wait: Wait | None = None
    async with client.stream("POST", f"{url}/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            now = time.monotonic()
            if (comment := _COMMENT.match(line)) and told is None:
                told = (now, int(comment[1]), float(comment[2]) if comment[2] else None)
            elif line.startswith("data: {") and wait is None and told is not None:
                if "error" in json.loads(line[6:]):
                    raise SystemExit(line)
                wait = Wait(told[1], told[2], now - told[0])
    return wait
