"""Backend ray on a real Ray cluster with two replicas of the embedded checkpoint."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mllama_demo import __version__
from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.engine.base import (
    MODEL_STOPPED,
    BackendInfo,
    Client,
    Event,
    FinishEvent,
    GenerationRequest,
    PrefillEvent,
    QueueEvent,
    TokenEvent,
)
from mllama_demo.engine.ray.backend import POLL_S, RayBackend
from mllama_demo.engine.ray.scale import Scale
from mllama_demo.errors import BackendBusy, ConfigError, PromptTooLong
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.loading import load_image
from mllama_demo.sampling import SamplingParams
from scripts.local_ray import ENVIRONMENT
from tests.support.events import events_of, text_of
from tests.support.paths import ROOT
from tests.support.program import APP, free_port, running, visitor
from tests.support.ray_cluster import Cluster, make_stuck, ray_cluster
from tests.support.waiting import PATIENCE_S, until, wait_until

ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'ray[serve]' to run these tests")
serve = pytest.importorskip("ray.serve")
application = pytest.importorskip("mllama_demo.engine.ray.deployment").application
reports_actor = pytest.importorskip("mllama_demo.engine.ray.replica").reports_actor

pytestmark = [pytest.mark.timeout(300), pytest.mark.ray, pytest.mark.slow]

DIGEST = hashlib.sha256((EMBEDDED_CHECKPOINT / "tokenizer.json").read_bytes()).hexdigest()
TOKENIZER = Tokenizer(EMBEDDED_CHECKPOINT)
WAITING = 3  # places to wait in at a replica
SLOTS = 2
NOBODY = Client()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        try:
            started = stack.enter_context(ray_cluster())
        except ConfigError as error:  # such as too long a path of the folder for temporary files, or too little shared memory
            pytest.skip(str(error))
        done = started.deploy("--ray-replicas", "2", "--batch-size", str(SLOTS), "--max-waiting", str(WAITING), "--threads", "1")
        assert done.returncode == 0, done.stdout + done.stderr
        yield started


@pytest.fixture(scope="module")
def backend(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[RayBackend]:
    """In this process. A process connects to one cluster only once."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    info = BackendInfo("ray", "embedded", "a cluster", SLOTS, 2048, 0, 0)
    made = RayBackend(info, cluster.address, "mllama-demo", tokenizer=DIGEST)
    made.start()
    wait_until(lambda: made.status().state != "loading", "the replicas answer")
    wait_until(lambda: len(made.replicas) == 2, "both replicas have reported")
    yield made
    made.close()
    ray.shutdown()  # before the cluster ends


def question(text: str, max_tokens: int = 20, **more: Any) -> GenerationRequest:
    prompt = encode_chat((Message("user", text),), TOKENIZER)
    return GenerationRequest(tuple(prompt), SamplingParams(temperature=0.0, max_tokens=max_tokens, **more))


def story(conversation: str = "", client: Client = NOBODY, max_tokens: int = 1500) -> GenerationRequest:
    asked = question("Tell me a story.", max_tokens, ignore_eos=True)
    return GenerationRequest(asked.prompt_ids, asked.sampling, conversation_id=conversation, client=client)


async def idle(backend: RayBackend) -> None:
    await until(lambda: backend.status().state == "ready" and len(backend.replicas) == 2, "both replicas are there")
    await until(lambda: backend.status().running == backend.status().waiting == 0, "nothing is under way")


async def started(backend: RayBackend, request: GenerationRequest) -> tuple[asyncio.Task[list[Event]], str]:
    """A request that is being answered, and the replica that answers it."""
    writing = asyncio.Event()
    events: list[Event] = []

    async def read() -> list[Event]:
        async with aclosing(backend.generate(request)) as stream:
            async for event in stream:
                events.append(event)
                if isinstance(event, TokenEvent):
                    writing.set()
        return events

    task = asyncio.create_task(read())
    await asyncio.wait_for(writing.wait(), 60)
    return task, backend._requests[request.id].replica


@pytest.mark.long
async def test_an_answer_comes_with_the_events_of_the_engine(backend: RayBackend) -> None:
    events = await events_of(backend, question("What is the capital of Italy?"))
    assert "Rome" in text_of(events)
    assert isinstance(events[-1], FinishEvent)
    assert events[-1].reason == "end_of_turn"
    kinds = [type(event) for event in events if not isinstance(event, QueueEvent)]
    assert kinds == [PrefillEvent, *[TokenEvent] * events[-1].completion_tokens, FinishEvent]
    assert backend.info.name == "torch"
    assert backend.info.tile_size > 0
    assert backend.status().slots == 2 * SLOTS


async def test_an_image_and_the_traces_cross_the_cluster(backend: RayBackend) -> None:
    file = EXAMPLES_FOLDER / "dog.png"
    image = load_image(file.read_bytes(), file.name)
    ids = encode_chat((Message("user", "What is in this image?", ImageRef.of(image)),), TOKENIZER)
    events = await events_of(
        backend, GenerationRequest(tuple(ids), SamplingParams(temperature=0.0, max_tokens=20), image, trace=True)
    )
    assert "dog" in text_of(events)
    assert all(event.trace is not None for event in events if isinstance(event, TokenEvent))


async def test_a_request_that_can_never_run_is_refused_by_its_name(backend: RayBackend) -> None:
    with pytest.raises(PromptTooLong, match="The prompt has 5000 tokens"):
        await events_of(backend, GenerationRequest((1,) * 5000))


async def test_a_conversation_goes_back_to_its_replica_and_others_go_elsewhere(backend: RayBackend) -> None:
    homes: dict[str, set[str]] = {}
    for _ in range(3):
        for name in "abcdefgh":
            task, replica = await started(backend, story(name, max_tokens=5))
            homes.setdefault(name, set()).add(replica)
            await task
    assert all(len(replicas) == 1 for replicas in homes.values())
    assert len(set.union(*homes.values())) == 2, "one replica has all conversations"


async def test_a_conversation_does_not_wait_for_its_replica_while_another_one_is_free(backend: RayBackend) -> None:
    running = [await started(backend, story("a")) for _ in range(2 * SLOTS)]
    assert Counter(replica for _, replica in running) == Counter(dict.fromkeys({r for _, r in running}, SLOTS))
    assert len({replica for _, replica in running}) == 2
    for task, _ in running:
        task.cancel()
    await asyncio.wait([task for task, _ in running])
    await idle(backend)


async def test_a_closed_stream_and_a_cancelled_request_free_their_slots(backend: RayBackend) -> None:
    closed, _ = await started(backend, story())
    closed.cancel()
    await asyncio.wait((closed,))
    await idle(backend)
    request = story()
    cancelled, _ = await started(backend, request)
    backend.cancel(request.id)
    *_, end = await cancelled
    assert isinstance(end, FinishEvent)
    assert end.reason == "cancelled"
    assert end.completion_tokens > 0
    await idle(backend)


async def test_full_replicas_refuse_by_the_name_of_the_error(backend: RayBackend) -> None:
    most = 2 * (SLOTS + WAITING)
    tasks = [asyncio.create_task(events_of(backend, story())) for _ in range(most + 3)]
    await until(lambda: sum(task.done() for task in tasks) >= 3, "three are refused")
    refused = [task.exception() for task in tasks if task.done()]
    assert refused
    assert all(isinstance(error, BackendBusy) for error in refused)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await idle(backend)


async def test_a_burst_of_one_visitor_delays_another_by_one_turn_at_most(backend: RayBackend) -> None:
    ann = Client("192.0.2.1", "ann")
    running = [await started(backend, story(client=ann)) for _ in range(2 * SLOTS)]
    waiting = [asyncio.create_task(events_of(backend, story(client=ann))) for _ in range(2 * WAITING - 1)]
    await until(lambda: backend.status().waiting == len(waiting), "the others wait, one place is left")
    other = asyncio.create_task(events_of(backend, question("Hello!")))
    await until(lambda: backend.status().waiting == 2 * WAITING, "the question of the other waits behind them")
    first_of_each = {replica: task for task, replica in running}
    for task in first_of_each.values():
        task.cancel()
    assert isinstance((await other)[-1], FinishEvent)
    assert not any(task.done() for task in waiting), "the first free slot is not for the burst"
    for task in (*waiting, *(task for task, _ in running)):
        task.cancel()
    await asyncio.gather(*waiting, *(task for task, _ in running), return_exceptions=True)
    await idle(backend)


async def test_the_time_limit_holds_while_no_replica_answers(backend: RayBackend) -> None:
    await idle(backend)
    pids = [report.pid for report in backend.replicas]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        asked = question("Hello!")
        limited = GenerationRequest(asked.prompt_ids, asked.sampling, time_limit_s=1.0)
        *_, end = await asyncio.wait_for(events_of(backend, limited), 60)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert isinstance(end, FinishEvent)
    assert end.reason == "time_limit"
    await idle(backend)


def test_a_process_with_another_tokenizer_is_refused(cluster: Cluster, backend: RayBackend) -> None:
    reasons: list[str] = []
    other = RayBackend(backend.info, cluster.address, "mllama-demo", tokenizer="another", on_down=reasons.append)
    other.start()
    wait_until(lambda: reasons, "it is refused")
    assert reasons == ["The replicas of mllama-demo have another tokenizer; set model_path to the model that they run."]
    assert other.status().state == "down"


async def test_the_replicas_are_found_again_when_the_actor_with_their_reports_ends(backend: RayBackend) -> None:
    await idle(backend)
    await asyncio.to_thread(ray.kill, reports_actor("mllama-demo"))
    await asyncio.sleep(2 * POLL_S)  # a look may find the new actor before a replica has reported
    await idle(backend)
    assert "Rome" in text_of(await events_of(backend, question("What is the capital of Italy?")))


async def test_a_step_that_does_not_end_counts_as_a_failure(cluster: Cluster, backend: RayBackend, tmp_path: Path) -> None:
    flag = tmp_path / "stuck"
    made = application(
        partial(make_stuck, flag),
        "stuck",
        Scale(1),
        tokenizer=DIGEST,
        slots=1,
        max_waiting=4,
        step_limit_s=1.0,
        drain_s=1.0,
    )
    await asyncio.to_thread(serve.run, made, name="stuck", route_prefix=None)
    stuck = RayBackend(backend.info, cluster.address, "stuck", tokenizer=DIGEST)
    stuck.start()
    await until(lambda: stuck.status().state == "ready", "it is ready")
    pid = stuck.replicas[0].pid
    flag.touch()
    *_, end = await events_of(stuck, question("Hello!"))
    assert isinstance(end, FinishEvent)
    assert (end.reason, end.error) == ("error", MODEL_STOPPED)
    flag.unlink()
    await until(lambda: [report.pid for report in stuck.replicas] not in ([], [pid]), "another replica is there")
    await until(lambda: stuck.status().state == "ready", "it is ready")
    *_, end = await events_of(stuck, question("Hello!"))
    assert isinstance(end, FinishEvent)
    assert end.reason == "max_tokens"
    stuck.close()
    await asyncio.to_thread(serve.delete, "stuck")


async def test_a_killed_replica_ends_its_own_answers_only_and_waiting_questions_move(backend: RayBackend) -> None:
    await idle(backend)
    running = [await started(backend, story(f"c{index}", max_tokens=1200)) for index in range(2 * SLOTS)]
    waiting = [asyncio.create_task(events_of(backend, question("What is the capital of Italy?", 8))) for _ in range(2)]
    await until(lambda: backend.status().waiting == 2, "two questions wait")
    victim = backend.replicas[0]
    os.kill(victim.pid, signal.SIGKILL)
    for task, replica in running:
        *_, end = events = await task
        assert isinstance(end, FinishEvent)
        if replica == victim.replica:
            assert (end.reason, end.error) == ("error", MODEL_STOPPED)
            assert text_of(events)
            assert end.completion_tokens == sum(isinstance(event, TokenEvent) for event in events)
        else:
            assert end.reason == "max_tokens"
    for task in waiting:
        assert "Rome" in text_of(await task)
    await until(
        lambda: len(backend.replicas) == 2 and victim.pid not in {r.pid for r in backend.replicas}, "a new replica is there"
    )


def test_web_processes_without_a_model_stand_in_front_of_the_same_replicas(
    cluster: Cluster, backend: RayBackend, tmp_path: Path
) -> None:
    wait_until(lambda: len(backend.replicas) == 2, "both replicas are there")
    options = ("--backend", "ray", "--ray-address", cluster.address, "--database-url", f"sqlite:///{tmp_path / 'shared.sqlite3'}")
    words = ["env", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), sys.executable, APP]
    with (
        running(tmp_path / "one", *options, program=words) as one,
        running(tmp_path / "two", *options, program=words) as two,
    ):
        for program in (one, two):
            program.wait_ready()
            health = program.health()
            assert health["slots"] == 2 * SLOTS
            assert {replica["name"] for replica in health["replicas"]} == {report.replica for report in backend.replicas}
            body = {
                "messages": [{"role": "user", "content": "What is the capital of Italy?"}],
                "temperature": 0,
                "logprobs": True,
            }
            with visitor() as session:
                answer = session.post(f"{program.url}/v1/chat/completions", json=body, timeout=60).json()
            assert "Rome" in answer["choices"][0]["message"]["content"]
            assert answer["choices"][0]["logprobs"]["content"]
            metrics = program.get("/metrics")
            assert metrics is not None
            assert metrics.text.count("mllama_demo_replica_requests{") == 4
            assert "libtorch" not in Path(f"/proc/{program.process.pid}/maps").read_text()
        # An answer that ends within drain_time_limit_s on a slow machine, too.
        body = {"messages": [{"role": "user", "content": "Tell me a story"}], "stream": True, "ignore_eos": True}
        body["max_tokens"] = 400
        with visitor() as session, session.post(f"{one.url}/v1/chat/completions", json=body, stream=True, timeout=60) as answer:
            lines = (line.decode() for line in answer.iter_lines() if line)
            assert '"content"' in next(line for line in lines if '"content"' in line)
            one.process.send_signal(signal.SIGTERM)
            *_, last, end = lines
        assert '"finish_reason":"length"' in last, "an answer under way goes on after SIGTERM"
        assert end == "data: [DONE]"
        assert one.process.wait(PATIENCE_S) == 0
        assert "SIGTERM" not in one.stderr(), "Ray's handler would abort the process after three seconds"


def test_a_web_process_of_another_version_ends_with_a_sentence(cluster: Cluster, backend: RayBackend, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "mllama_demo", tmp_path / "mllama_demo", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "mllama_demo" / "__init__.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(f'"{__version__}"', '"0.0.1"'), encoding="utf-8")
    options = ("--backend", "ray", "--ray-address", cluster.address, "--port", str(free_port()), "--data-dir", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "mllama_demo", "serve", *options],
        cwd=tmp_path,
        env={**cluster.environment, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].endswith(
        f"The replicas of mllama-demo run version {__version__} of the program, and this is 0.0.1; deploy this version first."
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ray-address", "127.0.0.1:9"), "No Ray cluster answers at 127.0.0.1:9: Connection refused"),
        (("--ray-address", "nowhere"), "ray_address must be host:port of the cluster's head"),
        (("--backend", "openai"), "backend must be torch, neuron or vllm, got openai"),
        (("--ray-replicas", "3", "--ray-max-replicas", "2"), "ray_max_replicas must be at least ray_replicas, 3, got 2"),
        (("--ray-replica-gpus", "1"), "The cluster has room for 0 of 1 replicas: each needs 1 CPUs and 1 GPUs of one machine"),
        (("--ray-replicas", "7"), "The cluster has room for 6 of 7 replicas"),
    ],
)
def test_what_cannot_be_deployed_is_said_in_one_sentence(cluster: Cluster, options: tuple[str, ...], words: str) -> None:
    done = cluster.deploy(*options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
