"""Sampling on the device: each row by its own request's values, as NxDI's sampler takes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mllama_demo.engine.neuron.runner import NeuronRunner, device_sampling
from mllama_demo.engine.neuron.sdk import import_nxdi
from mllama_demo.engine.runner import prefill
from mllama_demo.errors import ConfigError
from mllama_demo.sampling import SamplingParams
from tests.contract.engine.nxdi import cpu_device
from tests.contract.engine.nxdi.cases import GREEDY, Case, as_seen, ask, finish, noise, picture, start

GLOBAL_TOPK = 64


def on_device(**settings):
    return import_nxdi("models.config").OnDeviceSamplingConfig(
        **{"global_topk": GLOBAL_TOPK, "dynamic": True, "deterministic": True, **settings}
    )


@pytest.fixture(scope="module")
def loaded_on_device(embedded: Path, nxdi: None) -> NeuronRunner:
    """Its random number is always one half, so that what it draws can be foretold."""
    model = cpu_device.make_model(embedded, on_device_sampling_config=on_device())
    cpu_device.load(model)
    return NeuronRunner(model, model.config.image_token_index)


@pytest.fixture
def sampling_runner(loaded_on_device: NeuronRunner) -> Iterator[NeuronRunner]:
    yield loaded_on_device
    for slot in range(loaded_on_device.slots):
        loaded_on_device.release(slot)


def four_rows(tokenizer, reference) -> dict[int, Case]:
    """Every row with other values, two of them beyond what the device can do."""
    tile = reference.eyes["image_size"]
    image = picture(2 * tile, tile, 1)
    requests = [
        (noise(tokenizer, 40, 2), SamplingParams(temperature=2.0, top_p=1.0, top_k=0)),
        (ask(tokenizer, "What is in this image?", image=image), GREEDY),
        (noise(tokenizer, 30, 3), SamplingParams(temperature=1.9, top_p=0.95, top_k=20)),
        (ask(tokenizer, "Tell me a story.", image=image), SamplingParams(temperature=2.0, top_p=0.97, top_k=200)),
    ]
    return {slot: Case(replace(request, sampling=sampling), 12) for slot, (request, sampling) in enumerate(requests)}


def foretold(reference, case: Case) -> list[int]:
    """The tokens a draw of one half gives under NxDI's rules: at most global_topk candidates, and a nucleus without the token
    that reaches top_p, but never without the likeliest."""
    vision = None if case.request.image is None else reference.see(as_seen(reference, case.request.image))
    params, ids = case.request.sampling, list(case.request.prompt_ids)
    keep = params.top_k if 0 < params.top_k <= GLOBAL_TOPK else GLOBAL_TOPK
    for _ in range(case.count):
        logits, order = reference.logits(ids, vision)[-1].sort(descending=True)
        if params.greedy:
            ids.append(int(order[0]))
            continue
        probabilities = (logits[:keep] / params.temperature).softmax(-1)
        nucleus = probabilities.cumsum(-1) <= params.top_p
        nucleus[0] = True
        reached = probabilities.where(nucleus, 0).cumsum(-1) / probabilities[nucleus].sum()
        ids.append(int(order[int((reached < 0.5).sum())]))
    return ids[len(case.request.prompt_ids) :]


def test_each_row_is_drawn_by_its_own_values(tokenizer, reference, sampling_runner):
    cases = four_rows(tokenizer, reference)
    for slot, case in cases.items():
        start(sampling_runner, slot, case)
    finish(sampling_runner, cases)
    for case in cases.values():
        assert case.tokens == foretold(reference, case)
        greedy = foretold(reference, Case(replace(case.request, sampling=GREEDY), case.count))
        assert (case.tokens == greedy) == case.request.sampling.greedy, "the values must matter, or this test shows nothing"
    assert all(sampled.trace is None for case in cases.values() for sampled in case.made), "the device tells no probabilities"


def test_values_follow_the_request_through_joining_and_sitting_out(tokenizer, reference, sampling_runner):
    cases = four_rows(tokenizer, reference)
    for slot in (3, 0, 2, 1):
        start(sampling_runner, slot, cases[slot])
        finish(sampling_runner, {slot: replace(cases[slot], count=3, made=cases[slot].made)})
    finish(sampling_runner, cases)
    for case in cases.values():
        assert case.tokens == foretold(reference, case)


def test_what_the_device_is_told_is_legal_in_every_row_even_the_free_ones(tokenizer, reference, sampling_runner):
    cases = four_rows(tokenizer, reference)
    calls = sampling_runner._model.traced_model.calls
    calls.clear()
    for slot in (0, 2, 3):
        start(sampling_runner, slot, cases[slot])
    sampling_runner.decode([2])
    told = [inputs[4].tolist() for _, _, inputs in calls]
    rows = [[64.0, 1.0, 2.0], [1.0, 1.0, 1.0], pytest.approx([20.0, 0.95, 1.9]), pytest.approx([64.0, 0.97, 2.0])]
    assert told == [[rows[0]], [rows[2]], [rows[3]], rows]
    validate = import_nxdi("modules.generation.sampling").validate_sampling_params
    for _, _, inputs in calls:
        validate(inputs[4], on_device())


@pytest.mark.parametrize("length", [1, 2])
def test_prompts_too_short_for_a_prefill_are_drawn_by_their_own_values(tokenizer, reference, sampling_runner, length):
    """The ones that take a decode step for their first token."""
    case = Case(noise(tokenizer, length, 4), 6)
    case.request = replace(case.request, sampling=SamplingParams(temperature=2.0, top_p=1.0, top_k=0))
    start(sampling_runner, 2, case)
    finish(sampling_runner, {2: case})
    assert case.tokens == foretold(reference, case)


def test_nxdis_nucleus_is_the_one_described():
    """Without the token that reaches top_p, unless it is the likeliest: what device_sampling promises of its own words."""
    sampler = import_nxdi("modules.generation.sampling").Sampler(
        import_nxdi("models.config").NeuronConfig(on_device_sampling_config=on_device(deterministic=False), on_cpu=True)
    )
    logits = torch.full((4000, 100), -30.0)
    logits[:, :3] = torch.tensor([0.5, 0.3, 0.2]).log()
    values = torch.tensor([device_sampling(SamplingParams(temperature=1.0, top_p=0.79), GLOBAL_TOPK)] * 4000)
    assert set(sampler(logits, values, rank_id=None).tolist()) == {0}


# --- how the model was compiled ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "settings"),
    [
        ("ctx_batch_size", {"ctx_batch_size": 4}),
        ("is_continuous_batching", {"is_continuous_batching": False}),
        ("padding_side", {"padding_side": "left"}),
        ("async_mode", {"async_mode": True}),
        ("output_logits", {"output_logits": True}),
        ("tkg_batch_size", {"tkg_batch_size": 2}),
        ("max_batch_size", {"max_batch_size": 8}),
    ],
)
def test_a_model_compiled_for_something_else_is_refused_by_name(embedded, setting, settings):
    model = cpu_device.make_model(embedded)
    for name, value in settings.items():
        setattr(model.config.neuron_config, name, value)
    with pytest.raises(ConfigError, match=setting):
        NeuronRunner(model, 0)


def test_a_device_sampler_with_values_fixed_at_compile_time_is_refused(embedded):
    model = cpu_device.make_model(embedded, on_device_sampling_config=on_device(dynamic=False))
    with pytest.raises(ConfigError, match="dynamic"):
        NeuronRunner(model, 0)


@pytest.mark.parametrize("sampling", [True, False])
def test_a_compiled_folder_is_loaded_with_its_own_configuration(monkeypatch, embedded, tmp_path, tokenizer, sampling):
    model = cpu_device.make_model(embedded, slots=2, on_device_sampling_config=on_device() if sampling else None)
    model.config._name_or_path = str(embedded)  # where the weights are, as save_sharded_checkpoint=False leaves them
    model.config.save(str(tmp_path))
    paths = []

    def load(model, path):
        paths.append(path)
        cpu_device.load(model)

    monkeypatch.setattr(type(model), "load", load)
    monkeypatch.delenv("NEURON_SCRATCHPAD_PAGE_SIZE", raising=False)
    runner = NeuronRunner.load(tmp_path, model.config.image_token_index)
    assert paths == [str(tmp_path)]
    assert os.environ["NEURON_SCRATCHPAD_PAGE_SIZE"] == "1024", "what NxDI compiles this model with, and does not load it with"
    assert (runner.slots, runner.max_seq_len, runner.global_topk) == (2, 192, GLOBAL_TOPK if sampling else None)
    prefill(runner, 0, noise(tokenizer, 20, 5))


def test_bfloat16_as_on_the_device(embedded, tokenizer, reference):
    tile = reference.eyes["image_size"]
    model = cpu_device.make_model(embedded, torch_dtype=torch.bfloat16)
    cpu_device.load(model)
    runner = NeuronRunner(model, model.config.image_token_index)
    case = Case(ask(tokenizer, "What is in this image?", image=picture(2 * tile, tile, 6)), 5)
    start(runner, 0, case)
    finish(runner, {0: case})
    assert runner._model.traced_model.calls[0][2][5].dtype == torch.bfloat16
    _, logits = reference.greedy(case.request.prompt_ids, as_seen(reference, case.request.image), 1)
    assert case.made[0].trace is not None
    assert abs(case.made[0].trace.logits[0] - float(logits.max())) < 0.5
