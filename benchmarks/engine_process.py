"""The model in a process of its own against the model in the process of the web server: throughput and first token.

    python -m benchmarks engine-process [--rounds 12] [--threads 1] [--json FILE]

Starts the real program twice, once with each value of the option engine_process, and drives both with image chats over HTTP. They
take turns within each round, so that noise of the machine falls on both. Every figure is a median over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import serve
from benchmarks.raw_stream import post
from benchmarks.record import write

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300.0  # of a request
PAUSE_S = 0.3  # for what a server does after an answer
VALUES = {"own process": "true", "in-process": "false"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 4], help="chats at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model; 0 lets each program measure")
    parser.add_argument("--max-tokens", type=int, default=256, help="tokens of every answer")
    parser.add_argument("--json", type=Path, help="write every time here too")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(program(value, args.threads)) for name, value in VALUES.items()}
        runs = asyncio.run(drive(servers, args))
    print(serve.HEADER)
    for name, concurrent in runs:
        print(serve.line(name, concurrent, runs[name, concurrent]))
    for concurrent in args.concurrent:
        own, other = (figures(runs[name, concurrent]) for name in VALUES)
        differences = [f"{what} {100 * (own[what] / other[what] - 1):+.1f} %" for what in own]
        print(f"own process against in-process, {concurrent} at once: {', '.join(differences)}")
    write(
        args.json,
        [{"server": n, "concurrent": c, "runs": [[asdict(r) for r in run] for run in runs[n, c]]} for n, c in runs],
    )


async def drive(servers: dict[str, str], args: argparse.Namespace) -> dict[tuple[str, int], list[list[serve.Reply]]]:
    """Replies of each round by server and number of chats at once. The server that comes first changes with each round."""
    content = serve.image_question(serve.DOG, serve.QUESTION)
    body = {**serve.chat_request("embedded", content, args.max_tokens, 1.0), "ignore_eos": True}
    runs: dict[tuple[str, int], list[list[serve.Reply]]] = {(name, many): [] for many in args.concurrent for name in servers}
    for number in range(args.rounds + 1):
        for many in args.concurrent:
            for name in list(servers) if number % 2 else reversed(servers):
                chats = (post(f"{servers[name]}/chat/completions", body, {}, TIMEOUT_S) for _ in range(many))
                replies = [serve.read(response) for response in await asyncio.gather(*chats)]
                if number:  # the first round loads and caches
                    runs[name, many].append(replies)
                await asyncio.sleep(PAUSE_S)
    return runs


def figures(runs: Sequence[Sequence[serve.Reply]]) -> dict[str, float]:
    """Medians over the rounds: tokens per second of all chats together, and the seconds to the first text of a chat."""
    speeds = [sum(reply.tokens for reply in run) / max(reply.done for reply in run) for run in runs]
    first = [statistics.median(reply.pieces[0] for reply in run) for run in runs]
    return {"tokens per second": statistics.median(speeds), "time to first token": statistics.median(first)}


@contextlib.contextmanager
def program(engine_process: str, threads: int) -> Iterator[str]:
    """The real program, ready to answer; the URL of its API."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--api-only", "true", "--port", str(port), "--engine-process", engine_process, "--threads", str(threads)]
    with (
        tempfile.TemporaryDirectory() as data,
        subprocess.Popen(
            [sys.executable, "app.py", *options, "--data-dir", data], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Ready"):
                break
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
