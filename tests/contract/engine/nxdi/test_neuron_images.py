"""Pictures on NxDI's real code: aspect ratios in a traced graph, and tiles that generated tokens must not see."""

from __future__ import annotations

import pytest
import torch

from mllama_demo.engine.neuron import images as neuron_images
from mllama_demo.engine.neuron.images import vision_inputs
from mllama_demo.engine.neuron.sdk import aspect_ratio_ids, import_nxdi
from tests.contract.engine.nxdi.cases import TOLERANCE, Case, ask, assert_as_meta, differences, finish, picture, start
from tests.contract.engine.nxdi.cpu_device import XlaIsHere

RATIOS = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]


@pytest.fixture
def tile(reference) -> int:
    return reference.eyes["image_size"]


# --- aspect ratios -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_tiles", [1, 2, 3, 4, 6])
def test_the_ids_are_nxdis(max_tiles):
    theirs = import_nxdi("models.mllama.aspect_ratio_utils")
    ratios = torch.tensor([theirs.get_all_supported_aspect_ratios(max_tiles)], dtype=torch.int32)
    ids = aspect_ratio_ids(ratios, max_tiles)
    assert torch.equal(ids, theirs.convert_aspect_ratios_to_ids(ratios, max_tiles))
    assert ids.dtype == torch.int32


def traced_ids(function) -> list[int]:
    """The ids of every aspect ratio by a graph that was traced with one tile."""
    one = torch.ones(1, 1, 2, dtype=torch.int32)
    graph = torch.jit.trace(lambda ratios: function(ratios, 4), one, check_trace=False)
    return [int(graph(torch.tensor([[ratio]], dtype=torch.int32))) for ratio in RATIOS]


def test_the_ids_stay_ids_in_a_traced_graph_where_nxdis_own_are_frozen():
    assert traced_ids(aspect_ratio_ids) == list(range(1, 9))
    assert set(traced_ids(import_nxdi("models.mllama.aspect_ratio_utils").convert_aspect_ratios_to_ids)) == {1}


@pytest.mark.parametrize("ratio", [(2, 2), (1, 4), (4, 1)])
def test_a_vision_graph_traced_with_one_tile_sees_every_aspect_ratio(runner, tile, ratio):
    """As when it is compiled: the example picture is empty, on one tile."""
    vision_model = next(iter(runner._model.traced_model._instances.values())).module.vision_model
    pixels = vision_inputs(runner._config, picture(ratio[1] * tile, ratio[0] * tile, 1).pixels)
    example = vision_inputs(runner._config, None)
    with torch.no_grad(), XlaIsHere():
        graph = torch.jit.trace(vision_model, (example.pixel_values, example.aspect_ratios), check_trace=False)
        seen = graph(pixels.pixel_values, pixels.aspect_ratios)
        expected = vision_model(pixels.pixel_values, pixels.aspect_ratios)
        as_one_tile = vision_model(pixels.pixel_values, example.aspect_ratios)
    assert tuple(pixels.aspect_ratios[0, 0]) == ratio
    assert (seen - expected).abs().max() < TOLERANCE
    assert (as_one_tile - expected).abs().max() > 0.01, "the aspect ratio must matter, or this test shows nothing"


# --- tiles ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(2, 2), (1.2, 1.2), (4, 1), (3.4, 0.9), (1, 4), (9, 7.3), (0.5, 3.4)])
def test_a_picture_that_takes_all_tiles_by_itself_is_what_nxdi_would_have_made_of_it(runner, tile, size):
    image = picture(size[0] * tile, size[1] * tile, 2).pixels
    ours, theirs = (
        vision_inputs(runner._config, image),
        import_nxdi("models.mllama.utils").get_image_tensors(runner._config, [[image]]),
    )
    assert int(theirs[2]) == 4
    assert torch.equal(ours.pixel_values, theirs[0])
    assert torch.equal(ours.aspect_ratios, theirs[1])


@pytest.mark.parametrize(
    "size", [(1, 1), (0.2, 0.1), (2, 1), (1.1, 0.5), (3, 1), (1, 2), (0.4, 1.1), (1, 3), (30, 1), (0.1, 2.5)]
)
def test_no_picture_leaves_a_tile_empty(runner, tile, size):
    inputs = vision_inputs(runner._config, picture(size[0] * tile, size[1] * tile, 3).pixels)
    assert int(inputs.num_chunks) == int(inputs.aspect_ratios.prod()) == 4
    assert [t.dtype for t in (inputs.aspect_ratios, inputs.num_chunks, inputs.has_image)] == [torch.int32] * 3


@pytest.mark.parametrize(("rows", "columns"), RATIOS)
def test_pictures_of_every_aspect_ratio_are_answered_as_by_meta(tokenizer, reference, runner, tile, rows, columns):
    case = Case(ask(tokenizer, "What is in this image?", image=picture(columns * tile, rows * tile, 10 * rows + columns)), 16)
    start(runner, 1, case)
    finish(runner, {1: case})
    assert_as_meta(reference, case)


def answer_without_the_canvas(monkeypatch, runner, reference, request) -> list[float]:
    """The difference of each step from Meta's computation on the picture as it is, fed the same tokens."""
    monkeypatch.setattr(neuron_images, "on_full_canvas", lambda image, tile_size, max_tiles: image)
    case = Case(request, 8)
    start(runner, 1, case)
    finish(runner, {1: case})
    vision = reference.see(request.image.pixels)
    logits = reference.logits([*request.prompt_ids, *case.tokens[:-1]], vision)
    return differences(case.made, logits[-8:])


@pytest.mark.parametrize(("rows", "columns"), RATIOS)
def test_why_the_canvas_left_out_empty_tiles_show_from_the_second_token_on(
    monkeypatch, tokenizer, reference, runner, tile, rows, columns
):
    """If this fails, NxDI's decode has learnt to hide empty tiles, and on_full_canvas can go."""
    request = ask(tokenizer, "What is in this image?", image=picture(columns * tile, rows * tile, 5))
    first, *later = answer_without_the_canvas(monkeypatch, runner, reference, request)
    assert first < TOLERANCE, "prefill hides them"
    if rows * columns == 4:
        assert max(later) < TOLERANCE
    else:
        assert max(later) > 100 * TOLERANCE
