"""Hundreds of clients at once for minutes: every request must end once and rightly, and nothing may leak. For Linux.

    python -m benchmarks soak --minutes 10 --clients 200

The program is started with its default options. Of its clients seven in ten read their answer, two vanish at a random moment, and
one cancels after some text; one in twenty never reads. Half of the questions have an image, and the lengths differ. Clients come
from many addresses of this machine, since one address has no more than half of the places. Exit code 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.record import write
from mllama_demo.images.examples import EXAMPLES_FOLDER

APP = Path(__file__).resolve().parents[1] / "app.py"
QUESTIONS = ("What is in this image?", "What color is it?", "How many things are there?", "Tell me a story", "Where is it?")
WORDS = ("What is the capital of Italy?", "What is 3 + 4?", "Tell me a story", "Hello!", "Can you sing?")
LENGTHS = (1, 8, 24, 64)
ADDRESSES = 40
CALM_S = 20.0  # after the load, for what is still under way
MEMORY_GROWTH = 1.10  # from a fifth of the time, but not from within WARM_UP_S, to the end
WARM_UP_S = 60.0  # caches fill, and processes for images are started; longer on a busy machine
LOST = (httpx.TransportError,)


@dataclass
class Load:
    """What happened.

    Attributes:
        ends: How many requests ended in which way.
        wrong: What broke a promise, in words.
        health: Seconds that /health took, and its bodies.
        memory: Resident bytes of all processes, by the time since the start.
    """

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)


def questions() -> list[dict[str, Any]]:
    """Bodies of requests whose answers are the same each time: each has a seed."""
    images = [
        f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" for path in sorted(EXAMPLES_FOLDER.glob("*.png"))
    ]
    found = []
    for number, length in enumerate(LENGTHS * 5):
        content: Any = WORDS[number % len(WORDS)]
        if number % 2:
            address = {"url": images[number % len(images)]}
            content = [{"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]}, {"type": "image_url", "image_url": address}]
        found.append(
            {
                "model": "embedded",
                "messages": [{"role": "user", "content": content}],
                "max_tokens": length,
                "seed": number,
                "temperature": (0.0, 0.8, 1.5)[number % 3],
                "stream": True,
            }
        )
    return found


# --- the program ---------------------------------------------------------------------------------------------------------


@contextmanager
def program(folder: Path, options: list[str]) -> Iterator[tuple[str, int]]:
    """Runs the demo; yields its address and the id of its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("wb") as log:
        line = [sys.executable, str(APP), "--port", str(port), "--data-dir", str(folder / "data"), *options]
        process = subprocess.Popen(line, cwd=folder, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 180
            while not _is_ready(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"The program did not start:\n{(folder / 'log').read_text()}")
                time.sleep(0.2)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(60)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def processes_of(pid: int) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def resources(pid: int) -> dict[str, int]:
    """Resident bytes, threads and open files of the processes together."""
    total = {"memory": 0, "threads": 0, "files": 0}
    for one in processes_of(pid):
        try:
            total["memory"] += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            total["threads"] += sum(1 for _ in Path(f"/proc/{one}/task").iterdir())
            total["files"] += sum(1 for _ in Path(f"/proc/{one}/fd").iterdir())
        except OSError:  # it has just ended
            continue
    return total


# --- clients -------------------------------------------------------------------------------------------------------------


async def client(url: str, number: int, expected: dict[int, str], bodies: list[dict[str, Any]], load: Load, until: float) -> None:
    dice = random.Random(number)
    transport = httpx.AsyncHTTPTransport(local_address=f"127.0.0.{2 + number % ADDRESSES}")
    async with httpx.AsyncClient(base_url=url, transport=transport, timeout=120, trust_env=False) as http:
        while time.monotonic() < until:
            body = dice.choice(bodies)
            fate = dice.choices(("reads", "vanishes", "cancels", "never reads"), (65, 20, 10, 5))[0]
            try:
                await _one(http, body, fate, expected[body["seed"]], dice, load)
            except LOST as error:
                load.wrong.append(f"the connection of a request that {fate} broke: {error!r}")
            await asyncio.sleep(dice.random() * 0.2)


async def _one(http: httpx.AsyncClient, body: dict[str, Any], fate: str, expected: str, dice: random.Random, load: Load) -> None:
    began = time.monotonic()
    if fate == "vanishes":
        try:
            await asyncio.wait_for(http.post("/v1/chat/completions", json=body), dice.random() * 3)
        except asyncio.TimeoutError:
            load.ends["vanished"] += 1
        else:
            load.ends["answered before it vanished"] += 1
        return
    text, done = "", False
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code in (429, 503):
            load.ends["refused"] += 1
            if not response.headers.get("retry-after", "").isdecimal():
                load.wrong.append(f"status {response.status_code} without Retry-After")
            await asyncio.sleep(min(float(response.headers.get("retry-after", 1)), 3) * dice.random())
            return
        if response.status_code != 200:
            load.wrong.append(f"status {response.status_code}: {(await response.aread())[:200]!r}")
            return
        if fate == "never reads":
            await asyncio.sleep(dice.random() * 5)
            load.ends["never read"] += 1
            return
        async for line in response.aiter_lines():
            if done and line:
                load.wrong.append(f"a line after the end: {line[:200]}")
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    load.wrong.append(f"an error in a stream: {chunk['error']['message'][:200]}")
                    return
                if not text and chunk["choices"][0]["delta"].get("content"):
                    load.first_token.append(time.monotonic() - began)
                text += chunk["choices"][0]["delta"].get("content") or ""
            if fate == "cancels" and text:
                load.ends["cancelled"] += 1
                return
    if not done:
        load.wrong.append("a stream without [DONE]")
    elif fate == "reads" and text != expected:
        load.wrong.append(f"seed {body['seed']} gave {text[:80]!r}, and alone {expected[:80]!r}")
    else:
        load.ends["answered"] += 1


def watch(url: str, pid: int, load: Load, began: float, until: float) -> None:
    """Asks for /health every second. In a thread, which does not wait for the clients."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        while time.monotonic() < until:
            asked = time.monotonic()
            try:
                status = http.get("/health").status_code
            except LOST as error:
                load.wrong.append(f"/health: {error!r}")
                continue
            load.health.append(time.monotonic() - asked)
            if status != 200:
                load.wrong.append(f"/health answered {status}")
            load.memory.append((time.monotonic() - began, resources(pid)["memory"]))
            time.sleep(1)


async def soak(url: str, pid: int, clients: int, minutes: float) -> tuple[Load, dict[str, Any]]:
    bodies, load = questions(), Load()
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as http:
        expected = {}
        for body in bodies:
            answer = (await http.post("/v1/chat/completions", json={**body, "stream": False})).json()
            expected[body["seed"]] = answer["choices"][0]["message"]["content"]
        before = resources(pid)
        began = time.monotonic()
        until = began + minutes * 60
        watching = asyncio.create_task(asyncio.to_thread(watch, url, pid, load, began, until))
        await asyncio.gather(*(client(url, number, expected, bodies, load, until) for number in range(clients)))
        await watching
        quiet = time.monotonic() + CALM_S
        status = await _when_idle(http, quiet)
    if status["running"] + status["waiting"]:
        load.wrong.append(f"slots or places are still taken {CALM_S:.0f} s after the last client: {status}")
    await asyncio.sleep(6)  # the web server closes idle connections after five seconds
    after = resources(pid)
    return load, {"before": before, "after": after}


async def _when_idle(http: httpx.AsyncClient, until: float) -> dict[str, Any]:
    """The first /health of a server that has nothing to do, or the last one until that moment."""
    while True:
        status = (await http.get("/health")).json()
        if not status["running"] + status["waiting"] or time.monotonic() > until:
            return status
        await asyncio.sleep(0.2)


def judge(load: Load, used: dict[str, Any], minutes: float, health_s: float) -> None:
    """Adds what the figures say about promises."""
    before, after = used["before"], used["after"]
    for what in ("files", "threads"):
        # Threads and connections of pools are made when they are first needed.
        if after[what] > before[what] + 40:
            load.wrong.append(f"{what}: {before[what]} before, {after[what]} after")
    early = [size for moment, size in load.memory if moment >= max(minutes * 12, WARM_UP_S)][:5]
    late = [size for _, size in load.memory][-5:]
    if early and late and statistics.median(late) > MEMORY_GROWTH * statistics.median(early):
        load.wrong.append(
            f"memory: {statistics.median(early) / 1e6:.0f} MB early, {statistics.median(late) / 1e6:.0f} MB at the end"
        )
    if load.health and max(load.health) > health_s:
        load.wrong.append(f"/health took {max(load.health):.2f} s")
    if not load.ends["answered"]:
        load.wrong.append("no request was answered")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--health-s", type=float, default=1.0, help="the longest time that /health may take")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder, program(Path(folder), options) as (url, pid):
        load, used = asyncio.run(soak(url, pid, args.clients, args.minutes))
        log = (Path(folder) / "log").read_text(errors="replace")
    judge(load, used, args.minutes, args.health_s)
    if "Traceback" in log:
        load.wrong.append(f"a traceback in the log: {log[log.index('Traceback') :][:2000]}")
    report(args.clients, args.minutes, load, used)
    write(args.json, {"ends": load.ends, "health": load.health, "memory": load.memory, "used": used, "wrong": load.wrong})
    return 1 if load.wrong else 0


def report(clients: int, minutes: float, load: Load, used: dict[str, Any]) -> None:
    print(f"{clients} clients for {minutes:g} min: {sum(load.ends.values())} requests")
    for name, number in load.ends.most_common():
        print(f"  {number:7} {name}")
    times = sorted(load.health) or [0.0]
    print(f"/health: median {statistics.median(times) * 1000:.0f} ms, longest {times[-1] * 1000:.0f} ms")
    if load.first_token:
        print(f"first token: median {statistics.median(load.first_token):.1f} s, longest {max(load.first_token):.1f} s")
    for what, number in used["before"].items():
        after = used["after"][what]
        size = f"{number / 1e6:.0f} MB, {after / 1e6:.0f} MB" if what == "memory" else f"{number}, {after}"
        print(f"{what} before and after: {size}")
    for wrong, number in itertools.islice(Counter(load.wrong).most_common(), 20):
        print(f"BROKEN {number} x {wrong}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
