"""A prefix cache after prompts that were left half read, computations that failed and memory that was not there."""

from __future__ import annotations

import pytest
import torch

from mllama_demo.engine.runner import prefill
from mllama_demo.engine.token_sampler import NO_TOKEN
from mllama_demo.engine.torch import prefix_cache
from mllama_demo.engine.torch.prompt_pieces import PIECE_TOKENS
from tests.support.prefix_caches import WARM_SAMPLING, Dialogue, answer, assert_same, load, long
from tests.support.torch_runner_cases import ask, picture, raw_text


@pytest.mark.parametrize("pieces", [0, 1, 2, 3])
def test_a_prompt_that_was_left_half_read_is_read_on_where_it_was_left(tokenizer, cached, uncached, pieces: int) -> None:
    request = ask(tokenizer, long("dog"), "Yes.", long("house"), image=picture(2, 1, 9))
    slot = cached.choose_slot([0, 1], request)
    cached.begin(slot, request)
    for _ in range(pieces):
        assert cached.read_piece(slot) is None
    cached.release(slot)
    assert assert_same(cached, uncached, request).reused == max(0, pieces - 1) * PIECE_TOKENS  # one of them is the image


@pytest.mark.parametrize("fails", ["prompt", "answer"])
def test_after_a_failure_nothing_that_was_read_before_is_trusted(
    tokenizer, cached, uncached, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    request = Dialogue(tokenizer, picture(2, 1, 10)).ask(long("dog"))
    answer(cached, request)

    slot = cached.choose_slot([0, 1], request)
    if fails == "answer":
        prefill(cached, slot, request)
    monkeypatch.setattr(cached._text, "logits", lambda hidden: torch.full((len(hidden), 2048), float("nan")))
    with pytest.raises(FloatingPointError):
        cached.decode([slot]) if fails == "answer" else prefill(cached, 1 - slot, raw_text(tokenizer, 80))
    monkeypatch.undo()
    for used in (0, 1):
        cached.release(used)
    assert assert_same(cached, uncached, request).reused == 0


def test_numbers_that_are_not_finite_are_gone_after_the_failure(
    tokenizer, embedded, uncached_slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention reads masked keys too, and 0 times NaN is NaN."""
    runner = load(embedded, slots=1, prefix_cache_mb=64)
    prefill(runner, 0, raw_text(tokenizer, 80, seed=1))
    exact = runner._text._embedding
    with monkeypatch.context() as patched:
        patched.setattr(runner._text, "_embedding", lambda ids: exact(ids) * float("nan"))
        with pytest.raises(FloatingPointError):
            runner.decode([0])
    runner.release(0)
    assert_same(runner, uncached_slot, raw_text(tokenizer, 40, seed=2))


@pytest.mark.parametrize("answers", [False, True])
def test_a_sequence_that_is_not_finite_leaves_its_neighbour_and_what_that_has_read(
    tokenizer, embedded, uncached, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    runner = load(embedded, prefix_cache_mb=64, prefix_cache_answers=answers)
    good, bad = raw_text(tokenizer, 80, WARM_SAMPLING, seed=1), raw_text(tokenizer, 80, seed=2)
    expected = answer(uncached, good, 6).made
    made, exact = [prefill(runner, 0, good)], runner._text._embedding
    prefill(runner, 1, bad)
    made.append(runner.decode([0, 1])[0])

    def embedding(ids: torch.Tensor) -> torch.Tensor:
        embedded = exact(ids)
        embedded[1] = torch.nan
        return embedded

    with monkeypatch.context() as patched:
        patched.setattr(runner._text, "_embedding", embedding)
        one, other = runner.decode([0, 1])
    assert (one.error, other.token_id) == (None, NO_TOKEN)
    assert "not finite" in (other.error or "")
    runner.release(1)
    made += [one, *(runner.decode([0])[0] for _ in range(3))]
    assert made == expected, "the same seed gives the same answer"
    runner.release(0)
    assert runner.begin(1, bad) == 0, "nothing of it is trusted"
    runner.release(1)
    assert runner.begin(0, good) >= PIECE_TOKENS
    runner.release(0)
    assert_same(load(embedded, prefix_cache_mb=64) if answers else runner, uncached, bad)


def test_a_copy_that_fails_half_way_leaves_nothing_that_is_taken_for_the_old_prompt(
    tokenizer, embedded, uncached, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = load(embedded, prefix_cache_mb=64)
    old, new = raw_text(tokenizer, 200, seed=1), raw_text(tokenizer, 200, seed=2)
    prefill(runner, 0, old)
    prefill(runner, 1, new)
    runner.release(0)
    exact = prefix_cache._copy

    def fails(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
        exact(sources[:1], targets[:1])
        raise torch.OutOfMemoryError("no memory is left")

    with monkeypatch.context() as patched:
        patched.setattr(prefix_cache, "_copy", fails)
        with pytest.raises(torch.OutOfMemoryError):
            runner.begin(0, new)
    runner.release(0)
    runner.release(1)
    runner._prefixes._store.clear()  # which has the old prompt
    assert assert_same(runner, uncached, old).reused == 0


def test_a_copy_for_which_there_is_no_memory_is_left_out(
    tokenizer, embedded, uncached_slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = load(embedded, slots=1, prefix_cache_mb=64)
    answer(runner, raw_text(tokenizer, 80, seed=1), 1)

    def no_memory(tensors: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory is left")

    with monkeypatch.context() as patched:
        patched.setattr("mllama_demo.engine.torch.prefix_cache.torch.stack", no_memory)
        assert_same(runner, uncached_slot, raw_text(tokenizer, 80, seed=2), 1)
    assert runner._prefixes.stored_bytes == 0
