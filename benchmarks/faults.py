"""What is lost while parts of a cluster fail or change: two web processes, one PostgreSQL, and replicas of a simulated device.

    python -m benchmarks faults

Clients ask all the time, over the API and on the chat page. Every question must end: with the whole answer, with a sentence that
says why not, or, where its web process is killed, with a broken connection. A question of the page is looked up in the database
afterwards. Every replica writes down which answers it computed to their end, so that none is computed twice. Exit code 1 if a
promise is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import requests
import sqlalchemy as sql

from benchmarks.record import write
from benchmarks.recording_device import WAITING, make_recording
from mllama_demo.backends.ray import tokenizer_digest
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.engine.ray.scale import Scale
from mllama_demo.errors import ConfigError
from mllama_demo.runtime.process import sigterm_as_interrupt
from mllama_demo.storage.database_url import read_database_url
from mllama_demo.storage.drafts import LIFETIME
from mllama_demo.storage.schema import messages
from scripts.local_ray import ENVIRONMENT, local_cluster
from tests.support.postgres import Postgres, missing_postgres, running_postgres
from tests.support.program import APP, Program, running
from tests.support.raw_gradio_client import RawChat
from tests.support.raw_gradio_client import messages as messages_of
from tests.support.waiting import wait_until

NAME = "faults"  # of the application of Ray Serve
SLOTS = 4
TOKENS = 40  # of an answer, which takes more than a second
CLIENTS = 12  # every third one on the chat page, the others over the API
QUIET_S = 2.0  # of questions before and after what happens
DOWN_S = 3.0  # how long the database is away
LIMIT_S = 120.0
_DOES_NOT_ANSWER = "The database of conversations does not answer"

WHOLE, REFUSED, ENDED, CUT, LOST = "answered", "refused", "ended", "cut off", "lost"
OUTCOMES = {
    WHOLE: "with the whole answer",
    REFUSED: "before the answer began, with a sentence",
    ENDED: "with a sentence after the text so far",
    CUT: "with a broken connection",
    LOST: "with nothing, or a wrong answer",
}


# --- the deployment ------------------------------------------------------------------------------------------------------


@dataclass
class Deployment:
    """Everything that runs, and what can happen to it."""

    folder: Path
    address: str
    postgres: Postgres
    programs: list[Program] = field(default_factory=list)

    @property
    def finished(self) -> Path:
        return self.folder / "finished"

    def deploy(self, scale: Scale, slots: int = SLOTS) -> None:
        """Starts replicas, or replaces them. Returns when all of them are ready."""
        from ray import serve

        from mllama_demo.engine.ray.deployment import application

        made = application(
            partial(make_recording, self.finished, slots),
            NAME,
            scale,
            tokenizer=tokenizer_digest(EMBEDDED_CHECKPOINT),
            slots=slots,
            max_waiting=WAITING,
            step_limit_s=None,
            drain_s=LIMIT_S,
        )
        serve.run(made, name=NAME, route_prefix=None)

    def states(self) -> Counter[str]:
        """How many replicas are in which state."""
        from ray import serve

        (deployment,) = serve.status().applications[NAME].deployments.values()
        return Counter({str(getattr(state, "value", state)): count for state, count in deployment.replica_states.items()})

    def wait_for(self, replicas: int) -> None:
        wait_until(lambda: self.states() == Counter(RUNNING=replicas), lambda: f"{replicas} replicas: {self.states()}", LIMIT_S)

    def kill_replica(self) -> None:
        import ray

        from mllama_demo.engine.ray.replica import reports_actor

        before = ray.get(reports_actor(NAME).all.remote())
        os.kill(before[0].pid, signal.SIGKILL)
        wait_until(lambda: self.states() != Counter(RUNNING=len(before)), "Ray has seen it")
        self.wait_for(len(before))

    def restart_database(self) -> None:
        self.postgres.stop()
        time.sleep(DOWN_S)
        self.postgres.start()

    def scale_up_and_down(self, load: Load) -> None:
        self.deploy(Scale(1, 3, upscale_delay_s=1.0, downscale_delay_s=2.0))
        self.wait_for(3)
        load.only(2)
        self.wait_for(1)

    def stored(self, texts: set[str]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
        """For each of these questions that is stored, its answers with their metadata."""
        engine = sql.create_engine(read_database_url(self.postgres.url()))
        answers = messages.alias()
        follows = (answers.c.conversation_id == messages.c.conversation_id) & (answers.c.parent == messages.c.position)
        query = sql.select(messages.c.text, answers.c.text, answers.c.metadata).join_from(
            messages, answers, follows, isouter=True
        )
        found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        with engine.connect() as connection:
            for question, answer, metadata in connection.execute(query.where(messages.c.role == "user")):
                if question in texts:
                    found.setdefault(question, []).extend([] if answer is None else [(answer, metadata)])
        engine.dispose()
        return found


# --- the clients ---------------------------------------------------------------------------------------------------------


class Load:
    """Clients that ask all the time until the end of the `with` block.

    Attributes:
        outcomes: How many questions over the API ended in which way.
        details: For each way, what the client saw last.
        asked: The texts of the questions on the page, with what the page answered.
        chats: The pages of these questions.
        wrong: What broke a promise, in words.
    """

    def __init__(self, programs: list[Program]) -> None:
        self._programs = programs
        self.outcomes: Counter[str] = Counter()
        self.details: dict[str, str] = {}
        self.asked: dict[str, str] = {}
        self.chats: dict[str, RawChat] = {}
        self.wrong: list[str] = []
        self._lock = threading.Lock()
        self._clients = CLIENTS
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(index, index % 3 == 0), daemon=True) for index in range(CLIENTS)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(LIMIT_S)
            if thread.is_alive():
                self.wrong.append("a question has not ended")

    def only(self, clients: int) -> None:
        """Fewer clients from now on."""
        self._clients = clients

    def count(self, outcome: str, detail: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1
            self.details[outcome] = detail

    def _client(self, index: int, is_page: bool) -> None:
        chats: dict[str, RawChat] = {}
        number = 0
        while not self._stop.is_set() and index < self._clients:
            number += 1
            text = f"Client {index}, question {number} of {time.monotonic_ns()}"
            # By turns; a proxy would pass over a process that is gone, too.
            programs = [one for one in self._programs if not one.killed]
            program = programs[number % len(programs)]
            try:
                if not is_page:
                    self.count(*ask_api(program.url, text))
                    continue
                if program.url not in chats:
                    chats[program.url] = RawChat(program)
                self.asked[text], self.chats[text] = "", chats[program.url]
                self.asked[text] = ask_page(chats[program.url], text)
            except (httpx.ConnectError, requests.RequestException):  # not sent, or found in the database
                continue
            except Exception as error:  # an answer that is none
                if text not in self.asked:
                    self.count(LOST, repr(error))
                self.wrong.append(f"{text} ended with {error!r}")
                return  # so that there is one line for it, and not thousands


def ask_api(url: str, text: str) -> tuple[str, str]:
    """How a question over the API ended, and what it said at its end. Raises httpx.ConnectError if nobody listens."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": TOKENS, "stream": True}
    body["stream_options"] = {"include_usage": True}
    with httpx.Client(trust_env=False, timeout=LIMIT_S) as http:
        try:
            with http.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    return REFUSED if response.json()["error"]["message"] else LOST, response.text
                reason, tokens = None, 0
                for line in response.iter_lines():
                    if line == "data: [DONE]":
                        return WHOLE if (reason, tokens) == ("length", TOKENS) else LOST, f"{tokens} tokens, {reason}"
                    if line.startswith("data: "):
                        event = json.loads(line[6:])
                        if "error" in event:
                            return ENDED, line
                        reason = next((choice["finish_reason"] for choice in event["choices"]), None) or reason
                        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        except httpx.ConnectError:
            raise
        except httpx.TransportError as error:
            return CUT, repr(error)
    return LOST, "the stream has no end"


def ask_page(chat: RawChat, text: str) -> str:
    """Asks a question in a new conversation on the page, and looks at the conversation until the answer has ended.

    Returns:
        What the page answered to the question.
    """
    question = {"text": text, "files": []}
    told = chat.call(chat.ask_handler, {chat.conversation_field: "", chat.field("chat-input"): question})
    if found := chat.conversations():
        with chat.follow(found[0]) as page:  # the newest one
            list(messages_of(page))
    return told


def count_page_outcomes(deployment: Deployment, load: Load) -> None:
    """Adds how the questions on the page ended. A visitor whose web process has gone looks again at another one."""
    deadline = time.monotonic() + 2 * LIFETIME.total_seconds()
    while True:
        stored = deployment.stored(set(load.asked))
        unanswered = [text for text, answers in stored.items() if not answers]
        if not unanswered or time.monotonic() > deadline:
            break
        for text in unanswered:
            page = RawChat(next(program for program in deployment.programs if not program.killed))
            page.http.cookies = load.chats[text].http.cookies
            page.open("")
        time.sleep(1)
    for text, page in load.asked.items():
        answers = stored.get(text)
        if answers is None:
            load.count(REFUSED if "try again" in page else CUT if not page else LOST, f"not stored: {page[-1000:]}")
        elif len(answers) != 1:
            load.count(LOST, f"{len(answers)} answers: {page[-1000:]}")
        else:
            [(answer, metadata)] = answers
            is_whole = metadata.get("reason") == "max_tokens" and metadata.get("completion_tokens") == TOKENS
            # The question was stored, and the database went before the answer began.
            is_refused = not answer and _DOES_NOT_ANSWER in metadata.get("error", "")
            outcome = WHOLE if is_whole else REFUSED if is_refused else ENDED if answer or metadata.get("error") else LOST
            load.count(outcome, str(metadata))


# --- what happens --------------------------------------------------------------------------------------------------------

Happening = Callable[[Deployment, Load], None]


def kill_web_process(deployment: Deployment, load: Load) -> None:
    deployment.programs[0].kill()


# By name: what happens, and how questions may end in the meantime.
HAPPENINGS: dict[str, tuple[str, Happening, set[str]]] = {
    "redeploy": (
        "a new configuration is deployed",
        lambda deployment, load: deployment.deploy(Scale(2), SLOTS + 1),
        {WHOLE},
    ),
    "database": ("the database is restarted", lambda deployment, load: deployment.restart_database(), {WHOLE, REFUSED}),
    "replica": ("a replica is killed", lambda deployment, load: deployment.kill_replica(), {WHOLE, ENDED}),
    "scale": ("replicas go 1 → 3 → 1", Deployment.scale_up_and_down, {WHOLE}),
    "web": ("a web process is killed", kill_web_process, {WHOLE, ENDED, CUT}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=HAPPENINGS, default=list(HAPPENINGS), help="what happens")
    parser.add_argument("--json", type=Path, help="write every figure here too")
    args = parser.parse_args()
    if missing := missing_postgres():
        raise ConfigError(missing)
    with sigterm_as_interrupt():  # ends the cluster, the server and the programs
        return measure(args.only, args.json)


def measure(only: list[str], json_file: Path | None) -> int:
    """Lets these things happen, and prints how questions ended. Returns the exit code."""
    found: dict[str, dict[str, int]] = {}
    wrong: list[str] = []
    print(f"{'':34}{'questions':>10}" + "".join(f"{outcome:>10}" for outcome in OUTCOMES) + f"{'twice':>10}")
    with running_deployment() as deployment:
        for name in [name for name in HAPPENINGS if name in only]:
            what, happen, allowed = HAPPENINGS[name]
            deployment.finished.write_text("")
            with Load(deployment.programs) as load:
                time.sleep(QUIET_S)
                happen(deployment, load)
                time.sleep(QUIET_S)
            count_page_outcomes(deployment, load)
            outcomes = load.outcomes
            computed = Counter(deployment.finished.read_text().split())
            twice = sum(computed.values()) - len(computed)
            found[name] = {"questions": outcomes.total(), **{one: outcomes[one] for one in OUTCOMES}, "twice": twice}
            print(f"{what:34}" + "".join(f"{count:10}" for count in found[name].values()), flush=True)
            wrong += [f"{what}: {text}" for text in load.wrong]
            broken = [one for one in OUTCOMES if outcomes[one] and one not in allowed]
            wrong += [f"{what}: {outcomes[one]} {one}, such as {load.details[one]}" for one in broken]
            wrong += [f"{what}: {twice} computed twice"] if twice else []
            wrong += [] if outcomes[WHOLE] else [f"{what}: nothing was answered"]
    print("\n".join(f"{name}: {meaning}" for name, meaning in OUTCOMES.items()))
    write(json_file, found)
    for line in wrong:
        print(f"Not as promised: {line}.", file=sys.stderr)
    return 1 if wrong else 0


@contextmanager
def running_deployment() -> Iterator[Deployment]:
    """A cluster with two replicas, a database, and two web processes."""
    os.environ.update(ENVIRONMENT)
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="faults"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        address, _ = stack.enter_context(local_cluster(cpus=4))
        deployment = Deployment(folder, address, stack.enter_context(running_postgres()))

        from mllama_demo.engine.ray.cluster import connect

        connect(address)  # before Ray is imported, see there
        import ray
        from ray import serve

        stack.callback(ray.shutdown)  # before the cluster ends
        serve.start(proxy_location="Disabled")
        deployment.deploy(Scale(2))
        options = ["--backend", "ray", "--ray-address", address, "--ray-application", NAME, "--max-tokens", str(TOKENS)]
        options += ["--database-url", deployment.postgres.url()]
        words = ["env", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), sys.executable, APP]
        for name in ("one", "two"):
            deployment.programs.append(stack.enter_context(running(folder / name, *options, program=words)))
        for program in deployment.programs:
            program.wait_ready()
        yield deployment


if __name__ == "__main__":
    sys.exit(main())
