"""Drives OpenAI-compatible servers with image chats: how long, how fast, how many errors. Several servers side by side.

    python app.py --api-only --port 7860 &
    transformers serve mllama_demo/embedded --device cpu --dtype float32 --port 8000 &    # needs accelerate
    python -m benchmarks serve ours=http://127.0.0.1:7860/v1 transformers=http://127.0.0.1:8000/v1,mllama_demo/embedded

Servers take turns within each round, so that noise of the machine falls on all of them. Tokens are what the server's `usage`
says; of a server that sends none, each piece of text counts as one (marked *). TTFT: from sending a request to its first text.
ITL: between two pieces of text. An answer without any text counts as an error. The responses are read after they have ended
(benchmarks/raw_stream.py), so that this program takes little of the cores that it shares with the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import statistics
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.raw_stream import RawResponse, post
from benchmarks.record import write
from mllama_demo.images.examples import EXAMPLES_FOLDER

DOG = EXAMPLES_FOLDER / "dog.png"
QUESTION = "What is in this image? Tell me a story"


@dataclass
class Reply:
    """One chat. Times in seconds from the sending of the request."""

    pieces: list[float] = field(default_factory=list)
    done: float = 0.0
    tokens: int = 0
    counted: bool = False  # by us, for want of the server's own figure
    error: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "servers", nargs="+", metavar="NAME=URL[,MODEL]", help="the base URL with its /v1; the first model it lists, or this one"
    )
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 4, 16], help="chats at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--image", type=Path, default=DOG, help="a PNG or JPEG file")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds a request may take")
    parser.add_argument("--json", type=Path, help="write every time here too")
    args = parser.parse_args()
    servers = {name: rest.partition(",")[::2] for name, _, rest in (server.partition("=") for server in args.servers)}
    if not all(url for url, _ in servers.values()):
        parser.error("a server is given as NAME=URL, such as ours=http://127.0.0.1:7860/v1")
    print(HEADER)
    runs = asyncio.run(drive(servers, args))
    for name, concurrent in runs:
        print(line(name, concurrent, runs[name, concurrent]), flush=True)
    write(
        args.json,
        [{"server": n, "concurrent": c, "runs": [[asdict(r) for r in run] for run in runs[n, c]]} for n, c in runs],
    )
    if any(reply.error for every in runs.values() for run in every for reply in run):
        sys.exit(1)


async def drive(servers: dict[str, tuple[str, str]], args: argparse.Namespace) -> dict[tuple[str, int], list[list[Reply]]]:
    """Replies of each round by server and number of chats at once."""
    runs: dict[tuple[str, int], list[list[Reply]]] = {(name, many): [] for many in args.concurrent for name in servers}
    headers = {"Authorization": f"Bearer {args.api_key}"}
    content = image_question(args.image, args.question)
    chats: dict[str, Callable[[], Coroutine[Any, Any, RawResponse]]] = {}
    for name, (url, model) in servers.items():
        body = chat_request(model or first_model(url, headers, args.timeout), content, args.max_tokens, args.temperature)
        chats[name] = partial(post, f"{url}/chat/completions", body, headers, args.timeout)
        await chats[name]()  # the first request of a server may still load something
    for _ in range(args.rounds):
        for name, many in runs:
            runs[name, many].append([read(response) for response in await asyncio.gather(*(chats[name]() for _ in range(many)))])
    return runs


def image_question(image: Path, question: str) -> list[dict[str, Any]]:
    """The content of a user's turn with an image file, PNG or JPEG."""
    kind = "jpeg" if image.suffix.lower() in (".jpg", ".jpeg") else "png"
    url = f"data:image/{kind};base64,{base64.b64encode(image.read_bytes()).decode()}"
    return [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]


def first_model(url: str, headers: dict[str, str], timeout_s: float) -> str:
    with urlopen(Request(f"{url}/models", headers=headers), timeout=timeout_s) as response:
        models = json.load(response)["data"]
    if not models:
        raise SystemExit(f"{url} lists no model; name one after the URL: NAME=URL,MODEL.")
    return models[0]["id"]


def chat_request(model: str, content: Sequence[Any], max_tokens: int, temperature: float) -> dict[str, Any]:
    """The body of the request for one streamed chat."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": temperature,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def read(response: RawResponse) -> Reply:
    """The times and the counts of a chat that has ended. Whatever went wrong is a figure here."""
    reply = Reply(done=response.lasted)
    try:
        for arrived, event in response.events():
            if "error" in event:
                raise RuntimeError(event["error"])
            if event.get("choices") and event["choices"][0]["delta"].get("content"):
                reply.pieces.append(arrived)
            if event.get("usage"):
                reply.tokens = event["usage"]["completion_tokens"]
    except Exception as error:
        reply.error = f"{type(error).__name__}: {error}"
    if not reply.tokens:
        reply.tokens, reply.counted = len(reply.pieces), True
    if not reply.pieces and not reply.error:
        reply.error = "no text"
    return reply


HEADER = (
    f"{'server':14} {'at once':>7} {'wall s':>8} {'tok/s':>8} {'TTFT ms p50 p95 max':>22} {'ITL ms p50 p95':>16} {'errors':>7}"
)


def line(name: str, concurrent: int, runs: Sequence[Sequence[Reply]]) -> str:
    """One row of the table: wall and tokens/s as medians over rounds, percentiles over all chats of all rounds."""
    replies = [reply for run in runs for reply in run]
    good = [reply for reply in replies if not reply.error]
    walls = [max(reply.done for reply in run) for run in runs]
    speeds = [sum(reply.tokens for reply in run) / wall for run, wall in zip(runs, walls, strict=True)]
    first = [1000 * reply.pieces[0] for reply in good]
    between = [1000 * (b - a) for reply in good for a, b in zip(reply.pieces, reply.pieces[1:], strict=False)]
    mark = "*" if any(reply.counted for reply in good) else " "
    ttft = " ".join(f"{value:.0f}" for value in (*percentiles(first), max(first, default=float("nan"))))
    itl = " ".join(f"{value:.1f}" for value in percentiles(between))
    text = f"{name:14} {concurrent:7} {statistics.median(walls):8.2f} {statistics.median(speeds):7.0f}{mark} {ttft:>22} {itl:>16}"
    return f"{text} {len(replies) - len(good):7}" + (
        f"  {next(r.error for r in replies if r.error)}" if len(good) < len(replies) else ""
    )


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The 50th and the 95th."""
    if len(values) < 2:
        return (values[0], values[0]) if values else (float("nan"), float("nan"))
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return cuts[9], cuts[18]
