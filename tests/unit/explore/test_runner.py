"""Explorer and CellTasks on the real scheduler: events, stopping, failures, reruns, branches and fairness to other requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendInfo, FinishEvent, GenerationRequest, PrefillEvent
from mllama_demo.engine.slot_backend import SlotBackend
from mllama_demo.errors import BackendBusy, BadRequest, PromptTooLong
from mllama_demo.explore.filter_steps import forced_token
from mllama_demo.explore.grid import Grid, make_grid
from mllama_demo.explore.runner import QUEUE_AHEAD, CellProgress, CellTasks, Explorer
from mllama_demo.explore.stream import cell_events
from mllama_demo.sampling import SamplingParams
from tests.support.code_points import CodePoints
from tests.support.explore_runs import make_image, make_run, sampled_cell
from tests.support.manual_backend import ManualBackend
from tests.support.scripted_runner import END, END_IDS, ScriptedRunner
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)
ALL = frozenset({"images", "seed", "probabilities", "fork"})


def grid(seeds: int = 3, **values: Any) -> Grid:
    return make_grid({"prompt": "Hi", "seed": list(range(1, seeds + 1)), "max_tokens": 4, **values})


class Scripted(ScriptedRunner):
    """Repeats a letter that depends on the seed: seed 1 answers bbbb. failing: seeds whose prefill fails."""

    def __init__(self, slots: int = 2) -> None:
        super().__init__(slots, max_seq_len=4096)
        self.seen: list[GenerationRequest] = []
        self.failing: set[int] = set()

    def begin(self, slot: int, request: GenerationRequest) -> int:
        seed = request.sampling.seed or 0
        self.seen.append(request)
        self.scripts[request.id] = chr(ord("a") + seed) * 4000
        if seed in self.failing:
            self.fail_prefill[request.id] = RuntimeError("no luck")
        return super().begin(slot, request)


class Setup:
    """A started backend with a scripted runner, and an explorer on it. After hold(n) it decodes only n more steps."""

    def __init__(self, slots: int = 2, capabilities: frozenset[str] = ALL, max_waiting: int = 64, **settings: Any) -> None:
        self.runner = Scripted(slots)
        self._permits, self._free = threading.Semaphore(0), True
        self.runner.on_decode = self._wait_for_permit
        ready = threading.Event()
        info = BackendInfo("scripted", "a model", "cpu", slots, 4096, tile_size=32, max_tiles=4, capabilities=capabilities)
        tokenizer: Any = CodePoints()
        self.backend = SlotBackend(info, lambda _: self.runner, tokenizer, END_IDS, max_waiting=max_waiting, on_ready=ready.set)
        self.backend.start()
        assert ready.wait(20)
        self.explorer = Explorer(self.backend, tokenizer, Settings(**settings))

    def _wait_for_permit(self, _: Any) -> None:
        if not self._free:
            self._permits.acquire(timeout=20)

    def hold(self, steps: int) -> None:
        """Allows so many decode steps until release()."""
        self._free = False
        if steps:
            self._permits.release(steps)

    def release(self) -> None:
        self._free = True
        self._permits.release()

    def close(self) -> None:
        self.release()
        self.backend.close()
        assert self.runner.violations == []


@pytest.fixture
def make_setup() -> Iterator[Any]:
    made: list[Setup] = []

    def make(*args: Any, **options: Any) -> Setup:
        made.append(Setup(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


# --- complete runs -------------------------------------------------------------------------------------------------------


async def test_every_cell_finishes_and_the_event_stream_ends(make_setup) -> None:
    setup = make_setup()
    async with await setup.explorer.start(grid(5), None) as cells:
        seen = [event async for event in cell_events(cells)]
        finished = cells.run()
    assert [cell.text for cell in finished.cells] == ["bbbb", "cccc", "dddd", "eeee", "ffff"]
    assert {cell.outcome for cell in finished.cells} == {"max_tokens"}
    assert all(cell.timings is not None and len(cell.tokens) == 4 for cell in finished.cells)
    assert all(cell.traces is not None for cell in finished.cells)
    assert {event["cell"] for event in seen if event["phase"] == "done"} == set(range(5))
    assert cells.finished
    assert type(finished).model_validate_json(finished.model_dump_json()) == finished


async def test_requests_of_cells_differ_in_sampling_values_and_share_the_prompt(make_setup) -> None:
    setup = make_setup(system_prompt="Be brief.")
    async with await setup.explorer.start(grid(3, temperature=[0.5, 1.5]), make_image()) as cells:
        await cells.wait()
    requests = setup.runner.seen
    assert {(r.sampling.temperature, r.sampling.seed) for r in requests} == {(t, s) for t in (0.5, 1.5) for s in (1, 2, 3)}
    assert len({r.prompt_ids for r in requests}) == 1
    assert len({r.conversation_id for r in requests}) == 1
    assert len({r.id for r in requests}) == 6
    assert all(r.trace and r.image is not None and r.time_limit_s for r in requests)
    assert "Be brief." in "".join(map(chr, requests[0].prompt_ids))


async def test_requests_use_only_capabilities_of_the_backend(make_setup) -> None:
    setup = make_setup(capabilities=frozenset())
    with pytest.raises(BadRequest, match="takes no images"):
        await setup.explorer.start(grid(1), make_image())
    async with await setup.explorer.start(grid(1), None) as cells:
        await cells.wait()
        assert not cells.run().repeatable
        assert cells.run().cells[0].seed == 1
    (request,) = setup.runner.seen
    assert (request.trace, request.sampling.seed) == (False, None)


async def test_a_prompt_that_is_too_long_raises_before_any_request(make_setup) -> None:
    setup = make_setup()
    with pytest.raises(PromptTooLong):
        await setup.explorer.start(grid(2, prompt="x" * 5000), None)
    assert setup.runner.seen == []


async def test_the_estimate_has_seconds_after_the_first_grid(make_setup) -> None:
    setup = make_setup()
    assert setup.explorer.estimate(grid()).seconds is None
    async with await setup.explorer.start(grid(), None) as cells:
        await cells.wait()
        cells.run()
    assert setup.explorer.estimate(grid()).seconds > 0


# --- stops, failures, reruns ---------------------------------------------------------------------------------------------


async def test_stopping_one_cell_leaves_the_others_running(make_setup) -> None:
    setup = make_setup(slots=3)
    setup.hold(3)
    async with await setup.explorer.start(grid(3, max_tokens=8), None) as cells:
        await until(lambda: cells.cells[1].tokens, "a token of cell 2")
        cells.stop(1)
        setup.release()
        await cells.wait()
        finished = cells.run().cells
    assert [cell.outcome for cell in finished] == ["max_tokens", "cancelled", "max_tokens"]
    assert finished[1].text.startswith("c")
    assert len(finished[1].tokens) < 8


async def test_stopping_all_cells_includes_those_not_sent_yet(make_setup) -> None:
    setup = make_setup(slots=1)
    setup.hold(1)
    async with await setup.explorer.start(grid(8), None) as cells:
        await until(lambda: cells.cells[0].tokens, "a token")
        assert cells.cells[-1].phase == "queued"
        cells.stop()
        setup.release()
        await cells.wait()
        finished = cells.run().cells
    assert {cell.outcome for cell in finished} == {"cancelled"}
    await until(lambda: setup.backend.status().running == setup.backend.status().waiting == 0, "an idle backend")


async def test_a_failed_cell_has_its_error_and_can_be_rerun_alone(make_setup) -> None:
    setup = make_setup()
    setup.runner.failing = {2}
    async with await setup.explorer.start(grid(3), None) as cells:
        await cells.wait()
        first = cells.run()
        assert [cell.outcome for cell in first.cells] == ["max_tokens", "error", "max_tokens"]
        assert first.cells[1].error == "The model failed on this request."
        assert first.failed_count == 1
    setup.runner.failing.clear()
    async with await setup.explorer.rerun_cell(first, 1, None) as cells:
        await cells.wait()
        again = cells.cells[0].to_cell()
    assert (again.outcome, again.text, again.error) == ("max_tokens", "cccc", None)
    assert len(setup.runner.seen) == 4


async def test_leaving_the_context_stops_unfinished_cells(make_setup) -> None:
    setup = make_setup()
    setup.hold(1)
    async with await setup.explorer.start(grid(6), None) as cells:
        await until(lambda: cells.cells[0].tokens, "a token")
    setup.release()
    assert cells.finished
    await until(lambda: setup.backend.status().running == setup.backend.status().waiting == 0, "an idle backend")


# --- other requests ------------------------------------------------------------------------------------------------------


async def test_another_request_waits_for_at_most_two_cells_of_a_grid(make_setup) -> None:
    setup = make_setup(slots=1)
    setup.hold(1)
    async with await setup.explorer.start(grid(6), None) as cells:
        await until(lambda: cells.cells[0].tokens, "a token")
        other = GenerationRequest((1, 2), SamplingParams(max_tokens=2, seed=25))
        done_before: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def ask() -> None:
            async for event in setup.backend.generate(other):
                if isinstance(event, PrefillEvent):
                    done_before.set_result(sum(cell.phase == "done" for cell in cells.cells))

        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        setup.release()
        await asking
        await cells.wait()
    assert done_before.result() <= 2


async def test_a_grid_queues_only_queue_ahead_requests_at_a_time(make_setup) -> None:
    setup = make_setup(slots=1)
    setup.hold(0)
    async with await setup.explorer.start(grid(40), None) as cells:
        await until(lambda: setup.backend.status().waiting == QUEUE_AHEAD, "QUEUE_AHEAD waiting requests")
        await asyncio.sleep(0.05)
        assert setup.backend.status().waiting == QUEUE_AHEAD
        cells.stop()
        setup.release()


@pytest.mark.slow
async def test_a_cell_refused_by_a_full_queue_is_sent_again() -> None:
    backend: Any = ManualBackend()
    backend.refusal = BackendBusy("The demo is busy.")
    cell = CellProgress(SamplingParams(seed=1))
    async with CellTasks(backend, [GenerationRequest((1,))], [cell]) as cells:
        await asyncio.sleep(0.05)
        assert (cell.phase, cell.error) == ("queued", None)
        backend.refusal = None
        await backend.taken()
        cells.stop()
        await cells.wait()
        assert cell.to_cell().outcome == "cancelled"


# --- branches ------------------------------------------------------------------------------------------------------------


async def test_a_branch_prefills_the_shared_tokens_and_generates_the_rest(make_setup) -> None:
    setup = make_setup()
    async with await setup.explorer.start(grid(2, stop=["zz"]), make_image()) as cells:
        await cells.wait()
        finished = cells.run()
    async with await setup.explorer.branch(finished, 1, 1, ord("c"), make_image()) as branch:
        await branch.wait()
        cell = branch.cells[0].to_cell()
    request = setup.runner.seen[-1]
    assert request.prompt_ids == (*setup.runner.seen[0].prompt_ids, ord("c"), ord("c"))
    assert (request.answered, request.sampling.max_tokens, request.sampling.seed) == (2, 2, 2)
    assert (cell.text, len(cell.tokens), cell.outcome) == ("cccc", 4, "max_tokens")


async def test_an_impossible_branch_is_refused_with_its_reason(make_setup) -> None:
    setup = make_setup()
    async with await setup.explorer.start(grid(1), None) as cells:
        await cells.wait()
        finished = cells.run()
    for arguments, named in (
        ((0, 9, ord("b")), "no token 10"),
        ((0, 1, ord("z")), "not among the 1 recorded"),
        ((0, 3, ord("b")), "max_tokens is 4"),
    ):
        with pytest.raises(BadRequest, match=named):
            await setup.explorer.branch(finished, *arguments, None)


async def test_the_backend_refuses_to_continue_an_answer_that_has_ended(make_setup) -> None:
    setup = make_setup()
    ended = GenerationRequest((1, ord("a"), ord(END)), SamplingParams(seed=1), answered=2)
    stopped = GenerationRequest((1, ord("a"), ord("b")), SamplingParams(seed=1, stop=("ab",)), answered=2)
    nothing = GenerationRequest((1,), SamplingParams(seed=1), answered=1)
    for request, named in ((ended, "ends its turn"), (stopped, "'ab'"), (nothing, "1 of 1 prompt tokens")):
        with pytest.raises(BadRequest, match=named):
            async for _ in setup.backend.generate(request):
                pass


async def test_a_stop_string_across_the_end_of_the_shared_text_is_found(make_setup) -> None:
    """The shared text "q" may be the beginning of the stop string "qb"."""
    setup = make_setup()

    async def text_of(stop: str) -> str:
        values = SamplingParams(seed=1, max_tokens=2, stop=(stop,))
        request = GenerationRequest((1, ord("q")), values, answered=1)
        events = [event async for event in setup.backend.generate(request)]
        assert isinstance(events[-1], FinishEvent)
        return f"{events[-1].reason} {''.join(getattr(event, 'text', '') for event in events)}"

    assert await text_of("qb") == "stop_string "
    assert await text_of("qx") == "max_tokens qbb"


def test_a_forced_token_keeps_the_recorded_candidates_and_has_no_draw() -> None:
    cell = sampled_cell(SamplingParams(temperature=1.0, seed=3, max_tokens=4), 4)
    trace = cell.tokens[2].trace
    assert trace is not None
    token = forced_token(cell, 2, trace.token_ids[5])
    assert token.trace is not None
    assert (token.id, token.trace.chosen, token.trace.chosen_logit) == (trace.token_ids[5], trace.token_ids[5], trace.logits[5])
    assert (token.trace.draw, token.trace.token_ids) == (None, trace.token_ids)
    assert make_run().cells[0].traces is not None
