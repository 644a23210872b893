"""Replicas on a Ray cluster of this machine: the cost of the way through Ray, and the throughput of 1, 2, 4 and 8 replicas.

    python -m benchmarks replicas

The first table has the embedded checkpoint, with one answer at a time: in this process, and through Ray. The second table has
replicas of a simulated device, so that the cores of this machine are not the limit. Twice as many clients as there are slots ask
one question after the other, and tokens are counted once every slot has had time for its first answers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

from benchmarks.record import write
from mllama_demo.backends import make_engine
from mllama_demo.chat.conversation import Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.engine.base import Backend, BackendInfo, GenerationRequest, StartedBackend, SteppedBackend, TokenEvent
from mllama_demo.engine.simulated.profile import DeviceProfile
from mllama_demo.engine.simulated.runner import SimulatedRunner
from mllama_demo.engine.slot_backend import SlotBackend
from mllama_demo.sampling import SamplingParams
from scripts.local_ray import ENVIRONMENT, local_cluster

SLOTS = 4
# Steps are so slow that the processes of Ray, which need some milliseconds of a core for each token, do not fill two cores.
DEVICE = DeviceProfile("a simulated device", "round numbers", True, {1: 0.1}, {SLOTS: 0.25})
ANSWERS = (20, 60)  # the fewest and the most tokens of an answer, so that answers do not end all at once
BEGIN_S = 2 * ANSWERS[1] * DEVICE.decode_s[SLOTS]  # until tokens are counted
INFO = BackendInfo("simulated", "embedded", "a simulated device", SLOTS, 2048, 0, 0)


def make_simulated(on_ready: Callable[[], None], on_down: Callable[[str], None]) -> SteppedBackend:
    """A replica's backend: a device that sleeps."""

    def load(progress: Callable[[str], None]) -> SimulatedRunner:
        return SimulatedRunner(DEVICE, slots=SLOTS, max_seq_len=2048, take_time=time.sleep)

    return SlotBackend(INFO, load, Tokenizer(EMBEDDED_CHECKPOINT), frozenset(), on_ready=on_ready, on_down=on_down)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--answers", type=int, default=20, help="of the first table, each way")
    parser.add_argument("--tokens", type=int, default=300, help="of an answer of the first table")
    parser.add_argument("--seconds", type=float, default=60, help="in which the tokens of the second table are counted")
    parser.add_argument("--clients-a-slot", type=float, default=2, help="of the second table")
    parser.add_argument("--json", type=Path, help="write every figure here too")
    args = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    with local_cluster(cpus=max(args.replicas)) as (address, _):
        found = {
            "way": _way(address, args.answers, args.tokens),
            "scaling": _scaling(address, args.replicas, args.clients_a_slot, args.seconds),
        }
        import ray

        ray.shutdown()  # before the cluster ends
    write(args.json, found)


def _way(address: str, answers: int, tokens: int) -> dict[str, list[float]]:
    settings = load_settings(["--batch-size", str(SLOTS)])
    make = partial(make_engine, settings)
    here = _started(make)
    there = _deployed(address, "way", make, 1)
    request = partial(_question, "Tell me a story.", tokens)
    times: dict[str, list[tuple[float, float]]] = {"in process": [], "through Ray": []}
    for _ in range(answers):  # by turns
        for name, backend in (("in process", here), ("through Ray", there)):
            times[name].append(asyncio.run(_timed(backend, request())))
    here.close()
    _undeployed("way", there)
    print("                first token ms   ms a token   (medians)")
    medians = {name: [1000 * statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    for name, (first, token) in medians.items():
        print(f"{name:14}  {first:14.1f}   {token:10.2f}")
    return medians


def _scaling(address: str, counts: list[int], clients_a_slot: float, seconds: float) -> dict[int, float]:
    rates: dict[int, float] = {}
    print("replicas   tokens/s   of linear")
    for count in counts:
        backend = _deployed(address, f"scaling-{count}", make_simulated, count)
        rates[count] = asyncio.run(_rate(backend, round(count * SLOTS * clients_a_slot), seconds))
        _undeployed(f"scaling-{count}", backend)
        share = rates[count] / count / (rates[counts[0]] / counts[0])
        print(f"{count:8}   {rates[count]:8.1f}   {share:9.1%}", flush=True)
    return rates


async def _rate(backend: Backend, clients: int, seconds: float) -> float:
    """Tokens a second of all clients, each of which asks its next question when it has the answer to the last one.

    Args:
        seconds: how long tokens are counted, after BEGIN_S.
    """
    begin = time.perf_counter() + BEGIN_S
    counted = 0

    async def ask(client: int) -> None:
        nonlocal counted
        draw = random.Random(client)
        while True:
            request = _question("Hello!", draw.randint(*ANSWERS), f"conversation {client}")
            async with aclosing(backend.generate(request)) as events:
                async for event in events:
                    counted += isinstance(event, TokenEvent) and begin <= time.perf_counter() < begin + seconds

    tasks = [asyncio.create_task(ask(client)) for client in range(clients)]
    try:
        await asyncio.wait(tasks, timeout=BEGIN_S + seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()  # the error of a client
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return counted / seconds


def _question(text: str, tokens: int, conversation: str = "") -> GenerationRequest:
    prompt = encode_chat((Message("user", text),), Tokenizer(EMBEDDED_CHECKPOINT))
    return GenerationRequest(tuple(prompt), SamplingParams(max_tokens=tokens, ignore_eos=True), conversation_id=conversation)


async def _timed(backend: Backend, request: GenerationRequest) -> tuple[float, float]:
    """Seconds to the first token, and between two tokens."""
    times = [time.perf_counter()]
    async with aclosing(backend.generate(request)) as events:
        async for event in events:
            if isinstance(event, TokenEvent):
                times.append(time.perf_counter())
    return times[1] - times[0], (times[-1] - times[1]) / (len(times) - 2)


def _started(make: Callable[..., SteppedBackend]) -> SteppedBackend:

    ready = threading.Event()
    backend = make(ready.set, lambda reason: ready.set())
    backend.start()
    ready.wait()
    return backend


def _deployed(address: str, name: str, make: Callable[..., SteppedBackend], replicas: int) -> StartedBackend:
    from ray import serve

    from mllama_demo.engine.ray.backend import RayBackend
    from mllama_demo.engine.ray.cluster import connect
    from mllama_demo.engine.ray.deployment import application
    from mllama_demo.engine.ray.scale import Scale

    connect(address)
    serve.start(proxy_location="Disabled")
    serve.run(
        application(make, name, Scale(replicas), tokenizer="", slots=SLOTS, max_waiting=64, step_limit_s=None, drain_s=1),
        name=name,
        route_prefix=None,
    )
    backend = RayBackend(INFO, address, name, tokenizer="")
    backend.start()
    while len(backend.status().replicas) < replicas or backend.status().state != "ready":
        time.sleep(0.1)
    return backend


def _undeployed(name: str, backend: StartedBackend) -> None:
    from ray import serve

    backend.close()
    serve.delete(name)
