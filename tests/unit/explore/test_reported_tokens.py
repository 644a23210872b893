"""Tokens of a server that sends log probabilities: their alternatives, and what other values would have left of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.engine.base import TokenEvent, TokenLogprobs
from mllama_demo.errors import BadRequest
from mllama_demo.explore.compare import compare
from mllama_demo.explore.grid import make_grid
from mllama_demo.explore.import_export import from_json, to_json
from mllama_demo.explore.reported_tokens import text_id, tokens_of
from mllama_demo.explore.results import Run, empty_cell
from mllama_demo.explore.web.tour import why_no_token_view
from mllama_demo.explore.web.views import cell_view, steps_view, whatif_view
from mllama_demo.explore.whatif import candidates_what_if
from mllama_demo.sampling import SamplingParams
from tests.support.manual_backend import ManualBackend

PARAMS = SamplingParams(1.0, 0.9, 0, 8, 1)


def step(text: str, probability: float, **others: float) -> TokenLogprobs:
    likeliest = {text: probability, **others}
    pairs = sorted(((name, math.log(p)) for name, p in likeliest.items()), key=lambda pair: -pair[1])
    return TokenLogprobs(text, math.log(probability), tuple(pairs))


def event(*steps: TokenLogprobs, text: str | None = None) -> TokenEvent:
    return TokenEvent(0, -1, "".join(s.text for s in steps) if text is None else text, logprobs=steps)


def run_of(*cells: list[TokenLogprobs], max_tokens: int = 8) -> Run:
    """A run of a remote server, one cell for each list of steps."""
    grid = make_grid({"prompt": "Hi", "temperature": 1, "top_p": 0.9, "seed": list(range(len(cells))), "max_tokens": max_tokens})
    made = []
    for values, steps in zip(grid.cells(), cells, strict=True):
        tokens = [token for one in steps for token in tokens_of(event(one), values)]
        known = {"outcome": "max_tokens", "tokens": tuple(tokens), "text": "".join(one.text for one in steps)}
        made.append(empty_cell(values).model_copy(update=known))
    return Run(grid=grid, image=None, cells=tuple(made), model="m", backend="openai", device="there", system_prompt="")


def test_a_chunk_of_several_tokens_becomes_several_tokens() -> None:
    tokens = tokens_of(event(step("A", 0.6, The=0.3), step(" dog", 0.9)), PARAMS)
    assert [token.text for token in tokens] == ["A", " dog"]
    assert tokens[0].candidates == ("A", "The")
    assert tokens[0].id == text_id("A") == tokens_of(event(step("A", 0.1)), PARAMS)[0].id
    assert tokens[0].trace is not None
    assert list(tokens[0].trace.raw_probabilities()) == pytest.approx([0.6, 0.3])
    assert tokens[0].trace.unrecorded_mass() == pytest.approx(0.1)


def test_a_text_that_differs_from_its_tokens_is_kept_as_it_came() -> None:
    tokens = tokens_of(event(step("\\xe2", 0.5), step("\\x80", 0.5), text="…"), PARAMS)
    assert [token.text for token in tokens] == ["…", ""]


def test_the_token_is_a_candidate_although_the_server_does_not_list_it() -> None:
    drawn = TokenLogprobs("zebra", math.log(0.01), (("A", math.log(0.8)), ("The", math.log(0.1)), ("odd", math.nan)))
    (token,) = tokens_of(event(drawn), PARAMS)
    assert token.candidates == ("A", "The", "zebra")
    assert tokens_of(event(TokenLogprobs("x", math.nan)), PARAMS)[0].trace is None
    assert tokens_of(TokenEvent(0, -1, "text"), PARAMS)[0].id == -1


def test_what_if_is_exact_at_temperature_1_and_bounded_elsewhere() -> None:
    (token,) = tokens_of(event(step("A", 0.5, The=0.3, One=0.1)), PARAMS)
    assert token.trace is not None
    traces = [token.trace]
    found = candidates_what_if(traces, 0, PARAMS, SamplingParams(1.0, 0.7, 0))
    assert found.left == (2, 2)
    assert found.final[0] == pytest.approx((0.625, 0.625))
    # 0.5, 0.3 and 0.1 are known; the rest of 0.1 is one token or a thousand, none likelier than 0.1.
    for others in (np.full(1, 0.1), np.full(1000, 0.0001)):
        for temperature in (0.5, 2.0):
            weights = np.concatenate([[0.5, 0.3, 0.1], others]) ** (1 / temperature)
            low, high = candidates_what_if(traces, 0, PARAMS, SamplingParams(temperature, 1.0, 0)).final[0]
            assert low - 1e-9 <= weights[0] / weights.sum() <= high + 1e-9


def test_views_say_how_many_alternatives_the_server_sent() -> None:
    run = from_json(to_json(run_of([step("A", 0.6, The=0.3), step(" dog", 0.9)], [step("The", 0.3, A=0.6), step(" dog", 0.9)])))
    names = TokenEstimate()
    view = steps_view(run.cells[1], 0, PARAMS, names)
    assert (view["reported"], view["forced"], [c["text"] for c in view["candidates"]]) == (2, False, ["A", "The"])
    greedy = whatif_view(run.cells[1], PARAMS, SamplingParams(0.0), names, 0)
    assert (greedy["first_difference"], greedy["instead"], greedy["reported"]) == (0, "A", True)
    divergence = compare(run.cells[0], run.cells[1], PARAMS, PARAMS).divergence
    assert divergence is not None
    assert (divergence.index, divergence.a.text, divergence.cause) == (0, "A", "random_number")


def test_an_answer_longer_than_max_tokens_is_kept_with_a_note() -> None:
    run = from_json(to_json(run_of([step(f"w{n} ", 0.9) for n in range(5)], max_tokens=3)))
    assert len(run.cells[0].tokens) == 5
    assert "2 more than the 3 that were asked for" in cell_view(run, 0)["details"]
    broken = to_json(run).replace('"candidates":["w0 "]', '"candidates":["w0 ","x"]')
    with pytest.raises(BadRequest, match="one text for each"):
        from_json(broken)


def test_one_sentence_says_why_there_is_no_token_view() -> None:
    backend = ManualBackend()
    info = backend.info
    assert why_no_token_view(replace(info, name="openai", capabilities=frozenset({"logprobs"}))) is None
    sentence = why_no_token_view(replace(info, name="openai", capabilities=frozenset(), ignored={"logprobs": "It sends ids."}))
    assert sentence is not None
    assert "It sends ids." in sentence
