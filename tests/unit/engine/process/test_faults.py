"""Faults of the process of the model, each made for real: what was said stays, what waits is served, the log has the cause."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mllama_demo.engine.base import MODEL_STOPPED, REQUEST_FAILED, Event, TokenEvent
from mllama_demo.errors import BackendBusy, BackendUnavailable, cause_of
from tests.support.paths import ROOT
from tests.support.scripted_engine import Engine
from tests.support.slot_backends import end, read, refused_with, request, text
from tests.support.waiting import until, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

NO_MEMORY = "was killed by the system (SIGKILL), probably for want of memory"
# What goes wrong in a step, and what the log says about it.
FAULTS = {
    "segfault": "was ended by SIGSEGV",
    "down": "the device is gone",
    "hang": "a step took longer than 1 s (step_time_limit_s)",
    "hang without the interpreter": "a step took longer than 1 s (step_time_limit_s)",
}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def causes(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def ask_two(made: Engine) -> list[asyncio.Task[list[list[Event]]]]:
    """One answer under way in the only slot, and one that waits behind it."""
    tasks = [asyncio.create_task(read(made.backend, request(name))) for name in ("endless", "b")]
    await until(lambda: made.backend.status().waiting == 1, "one waits")
    return tasks


async def check_recovery(tasks: list[asyncio.Task[list[list[Event]]]], cause: str, sentence: str = MODEL_STOPPED) -> list[Event]:
    """The running answer failed by name, with its text; the waiting one is answered. Returns the events of the first."""
    [[broken], [served]] = await asyncio.gather(*tasks)
    finish = end(broken)
    assert (finish.reason, finish.error) == ("error", sentence)
    assert cause in cause_of(finish.error)
    assert text(broken) == "~" * finish.completion_tokens
    assert text(served) == "the answer of b"
    assert end(served).reason == "end_of_turn"
    assert [event.index for event in served if isinstance(event, TokenEvent)] == list(range(16))
    return broken


async def test_a_process_that_is_killed_while_it_decodes(engine, caplog: pytest.LogCaptureFixture) -> None:
    made = engine(slots=1)
    tasks = await ask_two(made)
    await until(lambda: made.backend.status().running == 1, "it runs")
    await asyncio.sleep(0.05)
    killed = made.backend.pid
    os.kill(killed, signal.SIGKILL)
    broken = await check_recovery(tasks, NO_MEMORY)
    assert end(broken).completion_tokens > 0
    assert end(broken).timings.total_s > 0
    [line] = causes(caplog)
    assert NO_MEMORY in line
    status = made.backend.status()
    assert (status.state, status.restarts) == ("ready", 1)
    assert NO_MEMORY in status.last_failure
    assert made.backend.pid != killed
    assert made.down == []


async def test_a_process_that_is_killed_while_it_reads_a_prompt(engine, caplog: pytest.LogCaptureFixture) -> None:
    made = engine(slots=1)
    made.fail_in("prefill", "wait")
    tasks = await ask_two(made)
    await until((made.folder / "reached").exists, "the prompt is being read")
    made.mend("prefill")
    os.kill(made.backend.pid, signal.SIGKILL)
    broken = await check_recovery(tasks, NO_MEMORY)
    assert end(broken).completion_tokens in (0, 1)
    assert len(causes(caplog)) == 1


@pytest.mark.parametrize("kind", ["prefill", "decode"])
@pytest.mark.parametrize(("fault", "cause"), FAULTS.items(), ids=FAULTS)
async def test_a_step_that_fails(engine, caplog: pytest.LogCaptureFixture, kind: str, fault: str, cause: str) -> None:
    made = engine(slots=1, step_limit_s=1.0)
    if kind == "prefill":
        made.fail_in(kind, fault)
    tasks = await ask_two(made)
    if kind == "decode":
        made.fail_in(kind, fault)
    await check_recovery(tasks, cause, REQUEST_FAILED if fault == "down" else MODEL_STOPPED)
    [line] = causes(caplog)
    assert cause in line
    assert made.backend.status().state == "ready"


async def test_three_failures_in_a_row_restart_the_process(engine) -> None:
    """In one process such a model stays down until a person restarts the program."""
    made = engine()
    before = made.backend.pid
    for number in range(3):
        made.fail_in("prefill", "the device said no")
        [events] = await read(made.backend, request(f"a{number}"))
        assert "the device said no" in cause_of(end(events).error)
    made.wait_ready()
    wait_until(lambda: made.backend.pid not in (None, before), "another process runs")
    made.wait_ready()
    [events] = await read(made.backend, request("a"))
    assert text(events) == "the answer of a"


async def test_a_hanging_step_holds_up_neither_stop_nor_the_time_limit(engine) -> None:
    made = engine(slots=1)  # without a limit for a step
    tasks = [asyncio.create_task(read(made.backend, request("endless")))]
    await until(lambda: made.backend.status().running == 1, "it runs")
    made.fail_in("decode", "hang")
    await until((made.folder / "reached").exists, "the step hangs")
    tasks.append(asyncio.create_task(read(made.backend, replace(request("limited"), time_limit_s=0.2))))
    made.backend.cancel("endless")
    [[stopped], [expired]] = await asyncio.gather(*tasks)
    assert (end(stopped).reason, text(stopped)) == ("cancelled", "~" * end(stopped).completion_tokens)
    assert (end(expired).reason, end(expired).completion_tokens) == ("time_limit", 0)
    assert made.backend.status().running == 0


async def test_a_hanging_process_does_not_collect_questions_without_end(engine) -> None:
    made = engine(slots=1, max_waiting=1)
    made.fail_in("decode", "hang without the interpreter")
    tasks = [asyncio.create_task(read(made.backend, request("endless")))]
    await until((made.folder / "reached").exists, "the step hangs")
    await until(lambda: made.backend.status().running == 1, "the admission was told, which came before the step")
    tasks.append(asyncio.create_task(read(made.backend, request("b"))))
    await until(lambda: made.backend.status().waiting == 1, "one waits")
    with pytest.raises(BackendBusy, match="1 question is waiting already"):
        await read(made.backend, request("c"))
    made.backend.restart()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("fault", ["hang", "hang without the interpreter"])
async def test_a_hanging_process_is_ended_with_the_backend(engine, fault: str) -> None:
    made = engine()
    made.fail_in("decode", fault)
    task = asyncio.create_task(read(made.backend, request("endless")))
    await until((made.folder / "reached").exists, "the step hangs")
    pid = made.backend.pid
    await asyncio.to_thread(made.backend.close)
    assert not alive(pid)
    [events] = await task
    assert end(events).error == "The demo is shutting down."


# --- loading -------------------------------------------------------------------------------------------------------------


async def test_a_model_that_cannot_be_loaded_is_not_tried_again(engine) -> None:
    made = engine(start=False)
    (made.folder / "broken").write_text("the file is gone", encoding="utf-8")
    made.backend.start()
    wait_until(lambda: made.down, "the backend is down")
    assert made.down == ["The model could not be loaded."]
    assert cause_of(made.down[0]) == "The model could not be loaded: the file is gone"
    assert (made.backend.status().state, made.backend.loaded, made.backend.status().restarts) == ("down", False, 0)
    assert await refused_with(made.backend) == "The model could not be loaded."


async def test_a_process_that_crashes_while_it_loads_is_started_again(engine) -> None:
    made = engine(start=False, max_restarts=2)
    (made.folder / "crash").touch()
    made.backend.start()
    wait_until(lambda: made.down, "the backend is down")
    assert (made.down, made.backend.status().restarts) == (["The model could not be loaded."], 2)
    assert "was ended by SIGABRT" in cause_of(made.down[0])


async def test_a_model_that_vanished_before_a_restart_stays_down_until_it_is_started_by_hand(engine) -> None:
    made = engine(slots=1, max_restarts=2)
    tasks = await ask_two(made)
    (made.folder / "broken").write_text("the file is gone", encoding="utf-8")
    os.kill(made.backend.pid, signal.SIGKILL)
    [[broken], [waited]] = await asyncio.gather(*tasks)
    assert end(broken).error == MODEL_STOPPED
    assert (end(waited).reason, end(waited).error) == ("error", "The model could not be loaded.")
    wait_until(lambda: made.down, "the backend is down")
    assert "the file is gone" in cause_of(made.backend.status().detail)
    assert (made.backend.status().state, made.backend.status().restarts) == ("down", 2)
    (made.folder / "broken").unlink()
    made.backend.restart()
    made.wait_ready()
    [events] = await read(made.backend, request("a"))
    assert text(events) == "the answer of a"


async def test_while_it_starts_again_new_questions_are_refused_and_waiting_ones_can_be_stopped(engine) -> None:
    made = engine(slots=1)
    tasks = await ask_two(made)
    (made.folder / "hold").touch()
    os.kill(made.backend.pid, signal.SIGKILL)
    await until(lambda: "reading the script" in made.backend.status().detail, "it loads again")
    with pytest.raises(BackendUnavailable, match="starting again after a failure: reading the script"):
        await read(made.backend, request("c"))
    assert (made.backend.status().state, made.backend.status().waiting) == ("loading", 1)
    made.backend.cancel("b")
    [_, [stopped]] = await asyncio.gather(*tasks)
    assert end(stopped).reason == "cancelled"
    (made.folder / "hold").unlink()


async def test_a_restart_by_hand_ends_what_runs_and_serves_what_waits(engine, caplog: pytest.LogCaptureFixture) -> None:
    made = engine(slots=1, max_restarts=0)
    tasks = await ask_two(made)
    made.backend.restart()
    await check_recovery(tasks, "The operator has started the model again")
    assert causes(caplog) == []


# --- the end of the parent -----------------------------------------------------------------------------------------------

PARENT = """
import sys, time
from pathlib import Path
from tests.support.scripted_engine import Engine
if __name__ == "__main__":
    engine = Engine(Path(sys.argv[1])).start()
    print(engine.backend.pid, flush=True)
    import asyncio
    from tests.support.slot_backends import read, request
    asyncio.run(read(engine.backend, request("endless")))
"""


@pytest.mark.parametrize("fault", [None, "hang", "hang without the interpreter"])
def test_no_process_is_left_when_the_web_process_is_killed(tmp_path: Path, fault: str | None) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        if fault is not None:
            (tmp_path / "decode").write_text(fault, encoding="utf-8")
            wait_until(lambda: not (tmp_path / "decode").exists(), "the step hangs")
            time.sleep(0.3)  # from here into the function that does not return
        parent.kill()
    wait_until(lambda: not alive(pid), "the process of the model has ended", 20)


# --- what the process wrote before its end -------------------------------------------------------------------------------


def explain(output: str) -> str | None:
    return "Replace the device." if "the device is broken" in output else None


async def test_what_a_process_wrote_before_its_end_explains_it(engine, capfd: pytest.CaptureFixture[str]) -> None:
    made = engine(explain=explain)
    for number in range(2):  # each process has an output of its own
        made.fail_in("decode", "abort: the device is broken")
        [events] = await read(made.backend, request("endless"))
        cause = cause_of(end(events).error)
        assert "was ended by SIGABRT. Its output names an error: Replace the device" in cause
        await until(lambda: made.backend.status().state == "ready", "the next process is ready")
        assert made.backend.status().restarts == number + 1
    made.fail_in("decode", "segfault")
    [events] = await read(made.backend, request("endless"))
    assert "Replace" not in cause_of(end(events).error), "the lines of an earlier process say nothing about this one"
    assert capfd.readouterr().err.count("abort: the device is broken") == 2, "the output is passed on"


async def test_a_process_that_hangs_is_explained_by_its_output(engine) -> None:
    made = engine(explain=explain, step_limit_s=1.0)
    made.fail_in("decode", "hang: the device is broken")
    [events] = await read(made.backend, request("endless"))
    cause = cause_of(end(events).error)
    assert "a step took longer than 1 s (step_time_limit_s). Its output names an error: Replace the device" in cause


async def test_without_an_explanation_the_output_is_that_of_the_web_process(engine, capfd: pytest.CaptureFixture[str]) -> None:
    made = engine()
    made.fail_in("decode", "abort: the device is broken")
    [events] = await read(made.backend, request("endless"))
    assert "was ended by SIGABRT" in cause_of(end(events).error)
    assert "Its output" not in cause_of(end(events).error)
    assert "abort: the device is broken" in capfd.readouterr().err
