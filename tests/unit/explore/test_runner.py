"""Cells side by side on the real scheduler: streamed, stopped, failed, run again, and no burden to anybody else."""

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
from tests.support.explore_runs import answer, picture, run_of
from tests.support.manual_backend import CodePoints as Prompts
from tests.support.manual_backend import ManualBackend, until
from tests.support.scripted_runner import END, END_IDS, ScriptedRunner

pytestmark = pytest.mark.timeout(120)
ALL = frozenset({"images", "seed", "probabilities", "fork"})


class CodePoints(Prompts):
    """Special tokens have no text."""

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if 0xE000 <= token_id < 0xF900 else chr(token_id).encode()


def grid(seeds: int = 3, **values: Any) -> Grid:
    return make_grid({"prompt": "Hi", "seed": list(range(1, seeds + 1)), "max_tokens": 4, **values})


class Scripted(ScriptedRunner):
    """Says its seed as a letter again and again: cell 1 answers bbbb. failing: seeds whose prefill fails."""

    def __init__(self, slots: int = 2) -> None:
        super().__init__(slots, max_seq_len=4096)
        self.seen: list[GenerationRequest] = []
        self.failing: set[int] = set()

    def prefill(self, slot: int, request: GenerationRequest) -> Any:
        seed = request.sampling.seed or 0
        self.seen.append(request)
        self.scripts[request.id] = chr(ord("a") + seed) * 4000
        if seed in self.failing:
            self.fail_prefill[request.id] = RuntimeError("no luck")
        return super().prefill(slot, request)


class Stage:
    """A started backend over a scripted runner, and an explorer on it. Held, it decodes only as often as the test allows."""

    def __init__(self, slots: int = 2, capabilities: frozenset[str] = ALL, max_waiting: int = 64, **settings: Any) -> None:
        self.runner = Scripted(slots)
        self._permits, self._free = threading.Semaphore(0), True
        self.runner.on_decode = lambda _: self._free or self._permits.acquire(timeout=20)
        ready = threading.Event()
        info = BackendInfo("scripted", "a model", "cpu", slots, 4096, tile_size=32, max_tiles=4, capabilities=capabilities)
        tokenizer: Any = CodePoints()
        self.backend = SlotBackend(info, lambda _: self.runner, tokenizer, END_IDS, max_waiting=max_waiting, on_ready=ready.set)
        self.backend.start()
        assert ready.wait(20)
        self.explorer = Explorer(self.backend, tokenizer, Settings(**settings))

    def hold(self, steps: int) -> None:
        """Lets so many decode steps happen, and no more until it is freed."""
        self._free = False
        if steps:
            self._permits.release(steps)

    def free(self) -> None:
        self._free = True
        self._permits.release()

    def close(self) -> None:
        self.free()
        self.backend.close()
        assert self.runner.violations == []


@pytest.fixture
def stage() -> Iterator[Any]:
    made: list[Stage] = []

    def make(*args: Any, **options: Any) -> Stage:
        made.append(Stage(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


# --- to the end ----------------------------------------------------------------------------------------------------------


async def test_every_cell_answers_and_the_stream_ends(stage) -> None:
    scene = stage()
    async with await scene.explorer.start(grid(5), None) as cells:
        seen = [event async for event in cell_events(cells)]
        kept = cells.run()
    assert [cell.text for cell in kept.cells] == ["bbbb", "cccc", "dddd", "eeee", "ffff"]
    assert {cell.outcome for cell in kept.cells} == {"max_tokens"}
    assert all(cell.timings is not None and len(cell.tokens) == 4 for cell in kept.cells)
    assert all(cell.traces is not None for cell in kept.cells)
    assert {event["cell"] for event in seen if event["phase"] == "done"} == set(range(5))
    assert cells.finished
    assert type(kept).model_validate_json(kept.model_dump_json()) == kept


async def test_cells_are_sent_with_their_own_values_and_one_shared_prompt(stage) -> None:
    scene = stage(system_prompt="Be brief.")
    async with await scene.explorer.start(grid(3, temperature=[0.5, 1.5]), picture()) as cells:
        await cells.wait()
    requests = scene.runner.seen
    assert {(r.sampling.temperature, r.sampling.seed) for r in requests} == {(t, s) for t in (0.5, 1.5) for s in (1, 2, 3)}
    assert len({r.prompt_ids for r in requests}) == 1
    assert len({r.conversation_id for r in requests}) == 1
    assert len({r.id for r in requests}) == 6
    assert all(r.shared_prompt and r.trace and r.image is not None and r.time_limit_s for r in requests)
    assert "Be brief." in "".join(map(chr, requests[0].prompt_ids))


async def test_a_backend_that_can_do_less_is_asked_for_less(stage) -> None:
    scene = stage(capabilities=frozenset())
    with pytest.raises(BadRequest, match="takes no images"):
        await scene.explorer.start(grid(1), picture())
    async with await scene.explorer.start(grid(1), None) as cells:
        await cells.wait()
        assert not cells.run().repeatable
        assert cells.run().cells[0].seed == 1
    (request,) = scene.runner.seen
    assert (request.shared_prompt, request.trace, request.sampling.seed) == (False, False, None)


async def test_a_prompt_that_does_not_fit_is_refused_before_anything_runs(stage) -> None:
    scene = stage()
    with pytest.raises(PromptTooLong):
        await scene.explorer.start(grid(2, prompt="x" * 5000), None)
    assert scene.runner.seen == []


async def test_the_estimate_is_known_once_a_grid_has_run(stage) -> None:
    scene = stage()
    assert scene.explorer.estimate(grid()).seconds is None
    async with await scene.explorer.start(grid(), None) as cells:
        await cells.wait()
        cells.run()
    assert scene.explorer.estimate(grid()).seconds > 0


# --- stopping, failing, running again ------------------------------------------------------------------------------------


async def test_one_cell_is_stopped_and_the_others_go_on(stage) -> None:
    scene = stage(slots=3)
    scene.hold(3)
    async with await scene.explorer.start(grid(3, max_tokens=8), None) as cells:
        await until(lambda: cells.cells[1].tokens, "a token of cell 2")
        cells.stop(1)
        scene.free()
        await cells.wait()
        kept = cells.run().cells
    assert [cell.outcome for cell in kept] == ["max_tokens", "cancelled", "max_tokens"]
    assert kept[1].text.startswith("c")
    assert len(kept[1].tokens) < 8


async def test_all_are_stopped_those_too_that_were_never_sent(stage) -> None:
    scene = stage(slots=1)
    scene.hold(1)
    async with await scene.explorer.start(grid(8), None) as cells:
        await until(lambda: cells.cells[0].tokens, "a token")
        assert cells.cells[-1].phase == "queued"
        cells.stop()
        scene.free()
        await cells.wait()
        kept = cells.run().cells
    assert {cell.outcome for cell in kept} == {"cancelled"}
    await until(lambda: scene.backend.status().running == scene.backend.status().waiting == 0, "an idle backend")


async def test_a_failed_cell_says_why_and_runs_again_alone(stage) -> None:
    scene = stage()
    scene.runner.failing = {2}
    async with await scene.explorer.start(grid(3), None) as cells:
        await cells.wait()
        first = cells.run()
        assert [cell.outcome for cell in first.cells] == ["max_tokens", "error", "max_tokens"]
        assert "no luck" in (first.cells[1].error or "")
        assert first.failed_count == 1
    scene.runner.failing.clear()
    async with await scene.explorer.rerun_cell(first, 1, None) as cells:
        await cells.wait()
        again = cells.cells[0].to_cell()
    assert (again.outcome, again.text, again.error) == ("max_tokens", "cccc", None)
    assert len(scene.runner.seen) == 4


async def test_leaving_ends_whatever_is_under_way(stage) -> None:
    scene = stage()
    scene.hold(1)
    async with await scene.explorer.start(grid(6), None) as cells:
        await until(lambda: cells.cells[0].tokens, "a token")
    scene.free()
    assert cells.finished
    await until(lambda: scene.backend.status().running == scene.backend.status().waiting == 0, "an idle backend")


# --- beside other people -------------------------------------------------------------------------------------------------


async def test_a_question_of_somebody_else_waits_for_one_turn_not_for_the_grid(stage) -> None:
    scene = stage(slots=1)
    scene.hold(1)
    async with await scene.explorer.start(grid(6), None) as cells:
        await until(lambda: cells.cells[0].tokens, "a token")
        other = GenerationRequest((1, 2), SamplingParams(max_tokens=2, seed=25))
        begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def ask() -> None:
            async for event in scene.backend.generate(other):
                if isinstance(event, PrefillEvent):
                    begun.set_result(sum(cell.phase == "done" for cell in cells.cells))

        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        scene.free()
        await asking
        await cells.wait()
    assert begun.result() <= 2


async def test_a_grid_leaves_room_in_the_queue_for_others(stage) -> None:
    scene = stage(slots=1)
    scene.hold(0)
    async with await scene.explorer.start(grid(40), None) as cells:
        await until(lambda: scene.backend.status().waiting == QUEUE_AHEAD, "the cells that are sent ahead")
        await asyncio.sleep(0.05)
        assert scene.backend.status().waiting == QUEUE_AHEAD
        cells.stop()
        scene.free()


async def test_a_busy_backend_is_asked_again() -> None:
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


# --- going on from another candidate -------------------------------------------------------------------------------------


async def test_a_branch_keeps_the_beginning_and_goes_on_with_the_rest_of_the_tokens(stage) -> None:
    scene = stage()
    async with await scene.explorer.start(grid(2, stop=["zz"]), picture()) as cells:
        await cells.wait()
        kept = cells.run()
    async with await scene.explorer.branch(kept, 1, 1, ord("c"), picture()) as branch:
        await branch.wait()
        cell = branch.cells[0].to_cell()
    request = scene.runner.seen[-1]
    assert request.prompt_ids == (*scene.runner.seen[0].prompt_ids, ord("c"), ord("c"))
    assert (request.answered, request.sampling.max_tokens, request.sampling.seed) == (2, 2, 2)
    assert (cell.text, len(cell.tokens), cell.outcome) == ("cccc", 4, "max_tokens")


async def test_a_branch_that_cannot_be_is_refused_by_name(stage) -> None:
    scene = stage()
    async with await scene.explorer.start(grid(1), None) as cells:
        await cells.wait()
        kept = cells.run()
    for arguments, named in (
        ((0, 9, ord("b")), "no token 10"),
        ((0, 1, ord("z")), "not among the 1 recorded"),
        ((0, 3, ord("b")), "max_tokens is 4"),
    ):
        with pytest.raises(BadRequest, match=named):
            await scene.explorer.branch(kept, *arguments, None)


async def test_an_answer_that_has_ended_cannot_go_on(stage) -> None:
    scene = stage()
    ended = GenerationRequest((1, ord("a"), ord(END)), SamplingParams(seed=1), answered=2)
    stopped = GenerationRequest((1, ord("a"), ord("b")), SamplingParams(seed=1, stop=("ab",)), answered=2)
    nothing = GenerationRequest((1,), SamplingParams(seed=1), answered=1)
    for request, named in ((ended, "ends its turn"), (stopped, "'ab'"), (nothing, "1 of 1 prompt tokens")):
        with pytest.raises(BadRequest, match=named):
            async for _ in scene.backend.generate(request):
                pass


async def test_what_the_beginning_holds_back_comes_with_the_first_token(stage) -> None:
    """The stop string may go across the seam: "q" could be the beginning of "qb"."""
    scene = stage()

    async def text_of(stop: str) -> str:
        values = SamplingParams(seed=1, max_tokens=2, stop=(stop,))
        request = GenerationRequest((1, ord("q")), values, answered=1)
        events = [event async for event in scene.backend.generate(request)]
        assert isinstance(events[-1], FinishEvent)
        return f"{events[-1].reason} {''.join(getattr(event, 'text', '') for event in events)}"

    assert await text_of("qb") == "stop_string "
    assert await text_of("qx") == "max_tokens qbb"


def test_another_choice_keeps_the_record_and_says_it_was_not_drawn() -> None:
    cell = answer(SamplingParams(temperature=1.0, seed=3, max_tokens=4), 4)
    trace = cell.tokens[2].trace
    assert trace is not None
    token = forced_token(cell, 2, trace.token_ids[5])
    assert token.trace is not None
    assert (token.id, token.trace.chosen, token.trace.chosen_logit) == (trace.token_ids[5], trace.token_ids[5], trace.logits[5])
    assert (token.trace.draw, token.trace.token_ids) == (None, trace.token_ids)
    assert run_of().cells[0].traces is not None
